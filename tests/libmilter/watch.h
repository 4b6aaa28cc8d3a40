/*
 * What libmilter does on its connections, seen from inside its process.
 *
 * The program has functions of its own by the names read(), writev(), poll(), accept() and close();
 * the dynamic linker lets libmilter call these instead of libc's.  They hand every call on, and
 * take note of what the library reads and writes, and of when it waits for input.  So it is known,
 * without any waiting, that the library has dealt with all it was sent: it has read every byte and
 * is inside poll() for more.
 *
 * One figure of the library depends on time and can be seen from outside: after each packet it
 * gives the next one a millisecond to come before the session goes back to the pool (which
 * forgets macros that came ahead of all commands).  That millisecond is taken out of the clock's
 * hands: with `pauses` it is over at once, else it never ends.
 */
#ifndef WATCH_H
#define WATCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "buffer.h"
#include "plan.h"

/* All under `lock`. */
struct connection {
    size_t sent;      /* bytes that the library is given, or about to be */
    size_t read;      /* bytes that it has read */
    bool waiting;     /* it is in poll() for more */
    bool read_end;    /* it has seen the end of the input */
    bool closed;      /* it has closed the connection */
    size_t *sends;    /* the sends that go over this connection, ... */
    size_t *ends;     /* ... where in the input each of them ends, ... */
    size_t count;     /* ... and how many they are */
    size_t at;        /* the one of them that the library is at */
};

struct watch {
    pthread_mutex_t lock;
    bool pauses;
    int signal; /* an eventfd, readable after something has happened that may end a wait */
    struct connection connections[MAX_CONNECTIONS];
    size_t *written; /* a send: bytes that the library wrote when it was at it */
    bool *closes;    /* a send: the library closed the connection when it was at it */
    struct buffer log; /* what the library told syslog, one line each */
};

extern struct watch watch;

void start_watch(const struct plan *plan);

/* The send that libmilter is at, on the connection that the calling thread serves. */
size_t current_send(void);

#endif
