/*
 * A milter on libmilter that does what it is told, for comparisons: one process a session.
 *
 * libmilter keeps some of a session's facts for the whole process and for good, so that a second
 * session in the same process may differ.  This program reads plans (plan.h) from its standard
 * input, a socket, each with its length ahead (u32), and forks a process for each, which writes
 * the result (session.h) to the same socket.
 *
 * It ends when the other side closes the socket, and takes the session at hand with it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "buffer.h"
#include "session.h"

static bool read_exactly(void *to, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t count = read(STDIN_FILENO, (char *)to + done, size - done);
        if (count == 0 || (count < 0 && errno != EINTR))
            return false;
        done += count > 0 ? (size_t)count : 0;
    }
    return true;
}

/* Return the next plan, or NULL at the end. */
static char *read_plan(void) {
    uint32_t length;
    if (!read_exactly(&length, sizeof length))
        return NULL;
    char *text = allocate((size_t)length + 1);
    if (!read_exactly(text, length))
        return NULL;
    text[length] = '\0';
    return text;
}

/* Wait until the child has ended, or the other side has hung up. */
static bool wait_for(pid_t child) {
    int descriptor = (int)syscall(SYS_pidfd_open, child, 0);
    if (descriptor < 0)
        return true; /* an old kernel: waitpid() it is, and the session's own limit of time */
    struct pollfd fds[] = {
        {.fd = descriptor, .events = POLLIN},
        {.fd = STDIN_FILENO, .events = POLLRDHUP},
    };
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    close(descriptor);
    return fds[0].revents != 0;
}

/* Say in a result of its own that a session has ended without one. */
static int report_death(int status) {
    char text[128] = {STATUS_FAILED};
    if (WIFSIGNALED(status))
        snprintf(text + 1, sizeof text - 1, "killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(text + 1, sizeof text - 1, "exited with status %d", WEXITSTATUS(status));
    return write_result(STDIN_FILENO, text, 1 + strlen(text + 1));
}

int main(void) {
    const struct rlimit none = {0, 0};
    pid_t self = getpid();
    char *text;
    /* A crash is reported; it need leave no file. */
    setrlimit(RLIMIT_CORE, &none);
    while ((text = read_plan()) != NULL) {
        int status = 0;
        pid_t child = fork();
        if (child < 0)
            return EXIT_FAILURE;
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != self)
                _exit(EXIT_FAILURE);
            run_session(text, STDIN_FILENO);
        }
        free(text);
        if (!wait_for(child))
            kill(child, SIGKILL);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        if (status != 0 && report_death(status) != 0)
            return EXIT_SUCCESS;
    }
    return EXIT_SUCCESS;
}
