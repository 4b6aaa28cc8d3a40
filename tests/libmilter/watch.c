/* Functions that stand between libmilter and libc; see watch.h. */
#define _GNU_SOURCE
#include "watch.h"

#include <dlfcn.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

struct watch watch = {.lock = PTHREAD_MUTEX_INITIALIZER, .signal = -1};

/* libmilter's wait for the next packet is 1 ms; all of its other waits are seconds. */
#define SHORT_WAIT_MS 100

#define MAX_DESCRIPTORS 1024

/* One more than the number of the connection that a descriptor of the library's is, or 0. */
static int connection_of[MAX_DESCRIPTORS];
static int accepted;
static _Thread_local int current;

static ssize_t (*libc_read)(int, void *, size_t);
static ssize_t (*libc_writev)(int, const struct iovec *, int);
static int (*libc_poll)(struct pollfd *, nfds_t, int);
static int (*libc_accept)(int, struct sockaddr *restrict, socklen_t *restrict);
static int (*libc_close)(int);

/* Before main(): any of them may be called as soon as another thread runs. */
__attribute__((constructor)) static void find_libc(void) {
    *(void **)&libc_read = dlsym(RTLD_NEXT, "read");
    *(void **)&libc_writev = dlsym(RTLD_NEXT, "writev");
    *(void **)&libc_poll = dlsym(RTLD_NEXT, "poll");
    *(void **)&libc_accept = dlsym(RTLD_NEXT, "accept");
    *(void **)&libc_close = dlsym(RTLD_NEXT, "close");
}

void start_watch(const struct plan *plan) {
    watch.pauses = plan->paced;
    watch.signal = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    watch.written = calloc(plan->send_count + 1, sizeof *watch.written);
    watch.closes = calloc(plan->send_count + 1, sizeof *watch.closes);
    if (watch.signal < 0 || watch.written == NULL || watch.closes == NULL)
        abort();
    size_t ends[MAX_CONNECTIONS] = {0};
    for (size_t i = 0; i < plan->send_count; i++) {
        int number = plan->sends[i].connection;
        struct connection *connection = &watch.connections[number];
        size_t size = (connection->count + 1) * sizeof(size_t);
        connection->sends = reallocate(connection->sends, size);
        connection->ends = reallocate(connection->ends, size);
        connection->sends[connection->count] = i;
        connection->ends[connection->count++] = ends[number] += plan->sends[i].length;
    }
}

/* Return the connection behind a descriptor, or NULL; the caller holds no lock. */
static struct connection *connection_behind(int fd) {
    if (fd < 0 || fd >= MAX_DESCRIPTORS)
        return NULL;
    int number = __atomic_load_n(&connection_of[fd], __ATOMIC_ACQUIRE);
    return number ? &watch.connections[number - 1] : NULL;
}

static void wake_driver(void) {
    if (eventfd_write(watch.signal, 1) != 0)
        abort();
}

size_t current_send(void) {
    pthread_mutex_lock(&watch.lock);
    const struct connection *connection = &watch.connections[current];
    size_t send = connection->count ? connection->sends[connection->at] : 0;
    pthread_mutex_unlock(&watch.lock);
    return send;
}

/* ------------------------------------------------------------------ what libmilter calls */

int accept(int fd, struct sockaddr *restrict address, socklen_t *restrict length) {
    int found = libc_accept(fd, address, length);
    if (found >= 0) {
        if (found >= MAX_DESCRIPTORS || accepted == MAX_CONNECTIONS)
            abort();
        __atomic_store_n(&connection_of[found], ++accepted, __ATOMIC_RELEASE);
    }
    return found;
}

ssize_t read(int fd, void *to, size_t size) {
    struct connection *connection = connection_behind(fd);
    ssize_t count = libc_read(fd, to, size);
    if (connection == NULL)
        return count;
    pthread_mutex_lock(&watch.lock);
    current = (int)(connection - watch.connections);
    if (count > 0) {
        connection->read += (size_t)count;
        while (connection->ends[connection->at] < connection->read)
            connection->at++;
    } else if (count == 0) {
        connection->read_end = true;
        /* The end of the input belongs to the last send: that is the one that brought it. */
        connection->at = connection->count - 1;
    }
    pthread_mutex_unlock(&watch.lock);
    return count;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct connection *connection = connection_behind(fd);
    ssize_t written = libc_writev(fd, parts, count);
    if (connection != NULL && written > 0) {
        pthread_mutex_lock(&watch.lock);
        watch.written[connection->sends[connection->at]] += (size_t)written;
        pthread_mutex_unlock(&watch.lock);
    }
    return written;
}

int close(int fd) {
    struct connection *connection = connection_behind(fd);
    if (connection == NULL)
        return libc_close(fd);
    /* Forgotten before: afterwards the number may be another connection's. */
    __atomic_store_n(&connection_of[fd], 0, __ATOMIC_RELEASE);
    int result = libc_close(fd);
    pthread_mutex_lock(&watch.lock);
    connection->closed = true;
    watch.closes[connection->sends[connection->at]] = true;
    pthread_mutex_unlock(&watch.lock);
    wake_driver();
    return result;
}

/* Mark the connections that a poll() is about as being waited for, or as no longer so. */
static void mark_waiting(const struct pollfd *fds, nfds_t count, bool waiting) {
    bool done = false;
    pthread_mutex_lock(&watch.lock);
    for (nfds_t i = 0; i < count; i++) {
        struct connection *connection = connection_behind(fds[i].fd);
        if (connection == NULL || !(fds[i].events & POLLIN))
            continue;
        connection->waiting = waiting;
        done = done || connection->read == connection->sent;
    }
    pthread_mutex_unlock(&watch.lock);
    if (waiting && done)
        wake_driver();
}

int poll(struct pollfd *fds, nfds_t count, int timeout) {
    bool for_input = false;
    for (nfds_t i = 0; i < count && !for_input; i++)
        for_input = (fds[i].events & POLLIN) && connection_behind(fds[i].fd) != NULL;
    if (!for_input)
        return libc_poll(fds, count, timeout);
    int ready = libc_poll(fds, count, 0);
    if (ready != 0)
        return ready;
    if (timeout >= 0 && timeout < SHORT_WAIT_MS) {
        if (watch.pauses)
            return 0;
        timeout = -1;
    }
    mark_waiting(fds, count, true);
    ready = libc_poll(fds, count, timeout);
    mark_waiting(fds, count, false);
    return ready;
}

/* Nothing of a test's belongs into the machine's log. */
static void take_log(const char *format, va_list arguments) {
    char line[1024];
    int length = vsnprintf(line, sizeof line, format, arguments);
    if (length < 0)
        return;
    pthread_mutex_lock(&watch.lock);
    put_raw(&watch.log, line, strlen(line));
    put_raw(&watch.log, "\n", 1);
    pthread_mutex_unlock(&watch.lock);
}

/* libmilter calls one or the other, by how it was compiled. */
void syslog(int priority, const char *format, ...);
void __syslog_chk(int priority, int flag, const char *format, ...);

void syslog(int priority, const char *format, ...) {
    va_list arguments;
    (void)priority;
    va_start(arguments, format);
    take_log(format, arguments);
    va_end(arguments);
}

void __syslog_chk(int priority, int flag, const char *format, ...) {
    va_list arguments;
    (void)priority;
    (void)flag;
    va_start(arguments, format);
    take_log(format, arguments);
    va_end(arguments);
}
