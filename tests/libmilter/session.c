/* One session; see session.h.  The MTA's side runs in a thread of libmilter's process. */
#define _GNU_SOURCE
#include "session.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "callbacks.h"
#include "watch.h"

/* Sends without a wait between them. */
struct burst {
    int connection;
    const char *data;
    size_t length;
    bool end;
};

/* The MTA's end of a connection. */
struct mta {
    int fd; /* -1 before it is opened */
    struct buffer output;
    bool read_end; /* libmilter's output is complete */
};

static struct plan plan;
static struct mta mtas[MAX_CONNECTIONS];
static struct burst *bursts;
static size_t burst_count;
static struct sockaddr_un listener_address;
static socklen_t listener_address_size;
static struct timespec deadline;
static int result_to;

int write_result(int fd, const void *data, size_t length) {
    struct buffer result = {0};
    put_counted(&result, data, length);
    for (size_t done = 0; done < result.length;) {
        ssize_t count = send(fd, result.data + done, result.length - done, MSG_NOSIGNAL);
        if (count < 0 && errno != EINTR)
            return -1;
        done += count > 0 ? (size_t)count : 0;
    }
    free(result.data);
    return 0;
}

static _Noreturn void fail(const char *what, const char *detail) {
    struct buffer result = {0};
    put_u8(&result, STATUS_FAILED);
    put_raw(&result, what, strlen(what));
    put_raw(&result, detail, strlen(detail));
    write_result(result_to, result.data, result.length);
    _exit(0);
}

static void put_connection(struct buffer *to, int number) {
    const struct connection *connection = &watch.connections[number];
    put_u8(to, !connection->closed ? 0 : connection->read_end ? 1 : 2);
    put_u32(to, (uint32_t)connection->read);
    put_counted(to, mtas[number].output.data, mtas[number].output.length);
}

static _Noreturn void finish(enum status status) {
    struct buffer result = {0};
    uint32_t connections = 0;
    /* Never given back: what libmilter does from here on is not part of the session. */
    pthread_mutex_lock(&record.lock);
    pthread_mutex_lock(&watch.lock);
    while (connections < MAX_CONNECTIONS && mtas[connections].fd >= 0)
        connections++;
    put_u8(&result, (uint8_t)status);
    put_u32(&result, connections);
    for (uint32_t i = 0; i < connections; i++)
        put_connection(&result, (int)i);
    put_u32(&result, (uint32_t)plan.send_count);
    for (size_t i = 0; i < plan.send_count; i++) {
        put_u32(&result, (uint32_t)watch.written[i]);
        put_u8(&result, watch.closes[i]);
    }
    put_u32(&result, record.count);
    put_raw(&result, record.events.data, record.events.length);
    put_counted(&result, watch.log.data, watch.log.length);
    write_result(result_to, result.data, result.length);
    _exit(0);
}

static int time_left_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long left = (deadline.tv_sec - now.tv_sec) * 1000 + (deadline.tv_nsec - now.tv_nsec) / 1000000;
    return left > 0 ? (int)left : 0;
}

/* ------------------------------------------------------------------ the MTA */

/* A name of the kernel's choice, in no directory: there is nothing to be removed. */
static int open_listener(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    listener_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    listener_address_size = sizeof listener_address;
    if (fd < 0 || bind(fd, (struct sockaddr *)&listener_address, sizeof(sa_family_t)) != 0 ||
        getsockname(fd, (struct sockaddr *)&listener_address, &listener_address_size) != 0 ||
        listen(fd, MAX_CONNECTIONS) != 0)
        fail("cannot open a listener: ", strerror(errno));
    return fd;
}

static void open_connection(struct mta *mta) {
    mta->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (mta->fd < 0 ||
        connect(mta->fd, (struct sockaddr *)&listener_address, listener_address_size) != 0)
        fail("cannot connect: ", strerror(errno));
}

/* Send what fits.  Return true if the burst is out, or nobody takes it any more. */
static bool push(const struct mta *mta, struct burst *burst) {
    while (burst->length > 0) {
        ssize_t count = send(mta->fd, burst->data, burst->length, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN)
            return false;
        if (count < 0) {
            /* libmilter has closed: what it wrote before can still be read. */
            burst->length = 0;
            return true;
        }
        burst->data += count;
        burst->length -= (size_t)count;
    }
    if (burst->end)
        shutdown(mta->fd, SHUT_WR);
    return true;
}

/* Read all that is there. */
static void pull(struct mta *mta) {
    static char chunk[65536];
    while (!mta->read_end) {
        ssize_t count = recv(mta->fd, chunk, sizeof chunk, 0);
        if (count > 0)
            put_raw(&mta->output, chunk, (size_t)count);
        else if (count < 0 && errno == EAGAIN)
            return;
        else if (count == 0 || errno != EINTR)
            /* ECONNRESET: there was input that libmilter has not read.  On a unix socket the
             * error comes after the output. */
            mta->read_end = true;
    }
}

/* Open the connection of a burst if need be, and begin to send. */
static bool begin_burst(struct burst *burst) {
    struct connection *connection = &watch.connections[burst->connection];
    struct mta *mta = &mtas[burst->connection];
    if (mta->fd < 0)
        open_connection(mta);
    /* Before anything is sent: so that it is never taken for dealt with too early. */
    pthread_mutex_lock(&watch.lock);
    connection->sent += burst->length;
    pthread_mutex_unlock(&watch.lock);
    return push(mta, burst);
}

/* Return whether libmilter has dealt with all that it was sent on a connection. */
static bool is_settled(const struct connection *connection, const struct burst *burst) {
    pthread_mutex_lock(&watch.lock);
    bool idle = connection->waiting && connection->read == connection->sent;
    /* It closes whenever it reads the end; before that it may still be waiting. */
    bool settled = connection->closed || (idle && !burst->end);
    pthread_mutex_unlock(&watch.lock);
    return settled;
}

static void settle(struct burst *burst, bool out) {
    struct mta *mta = &mtas[burst->connection];
    const struct connection *connection = &watch.connections[burst->connection];
    while (!is_settled(connection, burst)) {
        struct pollfd fds[] = {
            {.fd = watch.signal, .events = POLLIN},
            {.fd = mta->read_end ? -1 : mta->fd, .events = out ? POLLIN : POLLIN | POLLOUT},
        };
        eventfd_t ignored;
        int ready = poll(fds, 2, time_left_ms());
        if (ready == 0)
            finish(STATUS_STALLED);
        if (fds[0].revents)
            eventfd_read(watch.signal, &ignored);
        /* Output must be taken while input goes out: libmilter stops reading if it cannot write. */
        pull(mta);
        out = out || push(mta, burst);
    }
    pull(mta);
}

/* What the driver has read must be what the library's writes add up to: else one of the two sees
 * less than there is, and nothing that they say is to be believed. */
static void check_books(int number) {
    const struct connection *connection = &watch.connections[number];
    size_t written = 0;
    pthread_mutex_lock(&watch.lock);
    for (size_t i = 0; i < connection->count; i++)
        written += watch.written[connection->sends[i]];
    pthread_mutex_unlock(&watch.lock);
    if (written != mtas[number].output.length)
        fail("output was read that libmilter was not seen to write, or less than that", "");
}

static void *drive(void *first_is_out) {
    bool out = first_is_out != NULL;
    for (size_t i = 0; i < burst_count; i++) {
        if (i > 0)
            out = begin_burst(&bursts[i]);
        settle(&bursts[i], out);
        check_books(bursts[i].connection);
    }
    finish(STATUS_DONE);
}

/* Sends that are paced are a burst each; others are one, of all of them. */
static void plan_bursts(void) {
    struct buffer all = {0};
    bursts = allocate((plan.send_count + 1) * sizeof *bursts);
    if (!plan.paced)
        bursts[burst_count++] = (struct burst){0};
    for (size_t i = 0; i < plan.send_count; i++) {
        const struct send *send = &plan.sends[i];
        if (plan.paced) {
            bursts[burst_count++] =
                (struct burst){send->connection, send->data, send->length, send->end};
        } else {
            put_raw(&all, send->data, send->length);
            bursts[0].end = send->end;
        }
    }
    if (!plan.paced) {
        bursts[0].data = (const char *)all.data;
        bursts[0].length = all.length;
    }
}

/* ------------------------------------------------------------------ the filter */

static void configure_filter(int listener) {
    char socket_name[32];
    if (smfi_register(describe_filter(&plan)) != MI_SUCCESS)
        fail("smfi_register() has refused the description of the filter", "");
    snprintf(socket_name, sizeof socket_name, "fd:%d", listener);
    if (smfi_setconn(socket_name) != MI_SUCCESS)
        fail("smfi_setconn() has refused ", socket_name);
    if (plan.sets_max_data_size)
        smfi_setmaxdatasize(plan.max_data_size);
}

_Noreturn void run_session(char *plan_text, int result_fd) {
    pthread_t driver;
    result_to = result_fd;
    const char *unclear = parse_plan(&plan, plan_text);
    if (unclear != NULL)
        fail("no such statement, or not with these words: ", unclear);
    unclear = find_unknown_call(&plan);
    if (unclear != NULL)
        fail("no such call: ", unclear);
    if (plan.send_count == 0)
        fail("nothing is sent", "");

    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += plan.limit_ms / 1000;
    deadline.tv_nsec += plan.limit_ms % 1000 * 1000000;
    /* Should the driver hang, too: SIGALRM ends the process. */
    alarm((unsigned int)(plan.limit_ms / 1000 + 3));

    for (int i = 0; i < MAX_CONNECTIONS; i++)
        mtas[i].fd = -1;
    start_watch(&plan);
    plan_bursts();
    configure_filter(open_listener());
    /* Ahead of libmilter's start: what fits into the socket's buffer is all there when it first
     * looks, however the threads are scheduled. */
    bool out = begin_burst(&bursts[0]);
    int error = pthread_create(&driver, NULL, drive, out ? &plan : NULL);
    if (error != 0)
        fail("cannot start a thread: ", strerror(error));
    smfi_main();
    fail("smfi_main() has returned", "");
}
