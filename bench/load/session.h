/* The connections of the load generator: what each says next, and whether it hears what it must. */

#ifndef BENCH_SESSION_H
#define BENCH_SESSION_H

#include <errno.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "address.h"
#include "script.h"

enum { CONTINUE_BYTES = 5 };

static const uint32_t OFFERED_ACTIONS = 0x1ff, OFFERED_PROTOCOL = 0x1fffff;
static const char QUIT[] = "\0\0\0\1Q";
static const char CONTINUE[] = "\0\0\0\1c";

/* What the milter must send next. */
enum awaited { NEGOTIATION, OPENING_REPLY, NOTHING, STAGE_REPLY, EOM_REPLY };

struct connection {
    int fd;                     /* -1 when closed */
    enum awaited awaited;
    int step;
    long number;                /* of its message in progress, or of the next one */
    long messages;              /* that it has seen since it was opened */
    double message_started;
    size_t held;
    char input[1024];           /* more than any correct answer, so a surplus is seen */
    const uint8_t *output;      /* what the socket has not taken yet */
    size_t output_size;
    bool is_blocked;            /* the socket is full, and watched for room */
};

static struct {
    long connections, messages, messages_per_connection, limit_s;
    double rate;
    struct message message;
    bool is_split, polls, aborts;
    struct address address;
} options = {
    .connections = 50, .messages = 1000, .messages_per_connection = 0, .limit_s = 60,
    .message = {.headers = 12, .body_bytes = 4096, .piece_bytes = 65535},
};

static struct connection *connections;
static struct script opening, following;
static struct answer last_answer;
static int poll_fd;
static bool is_running, is_closing;             /* messages are sent; all connections are to end */
static bool has_failed;                         /* then nothing goes on */
static long open_connections, ready_connections, messages_begun, messages_done;
static double *latencies;
static double started, last_done;
static uint32_t agreed_protocol;
static char agreed[sizeof connections->input];  /* the first answer; all others must equal it */
static size_t agreed_size;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- Writing ------------------------------------------------------------------------------ */

static void close_connection(struct connection *c)
{
    close(c->fd);
    c->fd = -1;
    open_connections--;
}

static void fail(struct connection *c, const char *what)
{
    fprintf(stderr, "connection %ld, step %d: %s; received:", (long)(c - connections), c->step,
            what);
    for (size_t i = 0; i < c->held && i < MAX_ANSWER_BYTES; i++)
        fprintf(stderr, " %02x", (uint8_t)c->input[i]);
    fputc('\n', stderr);
    has_failed = true;
    close_connection(c);
}

/* Write as much as the socket takes, and watch for room as long as something is left. */
static void write_output(struct connection *c)
{
    while (c->output_size > 0) {
        size_t size = c->output_size;
        /* A packet by itself is written whole, however long that takes: it is a small one. */
        int flags = MSG_NOSIGNAL | (options.is_split ? 0 : MSG_DONTWAIT);
        if (options.is_split) {
            uint32_t length;
            memcpy(&length, c->output, sizeof length);
            size = 4 + (size_t)ntohl(length);
        }
        ssize_t sent = send(c->fd, c->output, size, flags);
        if (sent < 0 && errno == EAGAIN && !options.is_split)
            break;
        if (sent < 0 || (options.is_split && (size_t)sent < size)) {
            fail(c, "could not send");
            return;
        }
        c->output += sent;
        c->output_size -= (size_t)sent;
    }
    bool is_blocked = c->output_size > 0;
    if (is_blocked != c->is_blocked) {
        c->is_blocked = is_blocked;
        epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){
            .events = EPOLLIN | (is_blocked ? (uint32_t)EPOLLOUT : 0), .data.ptr = c});
    }
}

static void transmit(struct connection *c, const void *data, size_t size, enum awaited awaited)
{
    c->held = 0;
    c->awaited = awaited;
    c->output = data;
    c->output_size = size;
    write_output(c);
}

/* As an MTA does it: it says QUIT and closes, and does not wait for the milter. */
static void say_goodbye(struct connection *c)
{
    transmit(c, QUIT, sizeof QUIT - 1, NOTHING);
    if (c->fd >= 0)
        close_connection(c);
}

/* Send the next step of a script; false if there is none. */
static bool transmit_step(struct connection *c, const struct script *script)
{
    if (c->step == script->count)
        return false;
    const struct step *step = &script->steps[c->step];
    transmit(c, script->bytes + step->start, step->size,
             script == &opening ? OPENING_REPLY : step->is_end_of_message ? EOM_REPLY : STAGE_REPLY);
    return true;
}

/* ---- The course of a connection ----------------------------------------------------------- */

static void open_connection(struct connection *c)
{
    struct timeval limit = {.tv_sec = 10};
    struct script offer = {0};
    uint32_t words[] = {htonl(6), htonl(OFFERED_ACTIONS), htonl(OFFERED_PROTOCOL)};

    c->fd = socket(options.address.socket.any.sa_family, SOCK_STREAM, 0);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);   /* bounds connect too */
    if (c->fd < 0 || connect(c->fd, &options.address.socket.any, options.address.size) != 0) {
        perror("connect");
        exit(1);
    }
    if (!options.is_split)
        set_nodelay(c->fd, &options.address);
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd,
              &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
    open_connections++;
    c->step = 0;
    c->messages = 0;
    c->is_blocked = false;
    add_packet(&offer, 'O', words, sizeof words);
    transmit(c, offer.bytes, offer.used, NEGOTIATION);  /* so little that it is gone at once */
    free(offer.bytes);
}

static double begins_at(long number)
{
    return options.rate > 0 ? started + (double)number / options.rate : 0;
}

/* Begin the next message if there is one and its time has come. */
static void begin_message(struct connection *c)
{
    double time = now();

    if (!is_running || c->awaited != NOTHING)
        return;
    if (options.rate > 0) {
        /* Each connection has its own messages, so that no slow one is passed by. */
        if (c->number >= options.messages || begins_at(c->number) > time)
            return;
        c->message_started = begins_at(c->number);
        c->number += options.connections;
    } else {
        if (messages_begun == options.messages)
            return;
        c->message_started = time;
    }
    messages_begun++;
    c->step = 0;
    transmit_step(c, &following);
}

/* What was said at the opening has been answered: the connection waits for a message. */
static void be_ready(struct connection *c)
{
    size_t left = opening.used - opening.written;

    if (left > 0)               /* never answered: it goes as it is */
        transmit(c, opening.bytes + opening.written, left, NOTHING);
    c->awaited = NOTHING;
    ready_connections++;
    if (is_closing)
        say_goodbye(c);
    else
        begin_message(c);
}

static void end_message(struct connection *c)
{
    last_done = now();
    latencies[messages_done++] = last_done - c->message_started;
    c->awaited = NOTHING;
    c->messages++;
    if (c->messages == options.messages_per_connection && messages_begun < options.messages) {
        ready_connections--;
        say_goodbye(c);
        if (!has_failed)
            open_connection(c);
        return;
    }
    begin_message(c);
}

/* ---- Reading ------------------------------------------------------------------------------ */

/* Check the answer to OPTNEG and write the scripts by it; returns what is wrong, or NULL. */
static const char *accept_negotiation(const struct connection *c)
{
    uint32_t words[4];          /* length, version, actions, protocol */

    if (agreed_size > 0)
        return c->held == agreed_size && memcmp(c->input, agreed, agreed_size) == 0
            ? NULL : "negotiated otherwise than the first connection";
    memcpy(agreed, c->input, c->held);
    agreed_size = c->held;
    memcpy(words + 1, c->input + 5, 12);
    for (int i = 1; i < 4; i++)
        words[i] = ntohl(words[i]);
    agreed_protocol = words[3];
    if (c->input[4] != 'O' || words[1] < 2 || words[1] > 6)
        return "not the answer to OPTNEG";
    if ((words[2] & ~OFFERED_ACTIONS) || !(words[2] & (options.message.is_changed ? 0x10 : 1)))
        return "negotiated actions that were not offered, or not to edit headers";
    if (words[3] & ~OFFERED_PROTOCOL)
        return "negotiated options that were not offered";
    write_opening(&opening, agreed_protocol);
    if (options.aborts)
        add_packet(&following, 'A', "", 0);
    write_message(&following, agreed_protocol, &options.message);
    write_answer(&last_answer, agreed_protocol, &options.message);
    return NULL;
}

static void receive_negotiation(struct connection *c)
{
    uint32_t length;

    if (c->held < sizeof length)
        return;
    memcpy(&length, c->input, sizeof length);
    length = ntohl(length);
    /* Version, actions, protocol; then perhaps a list of macros that it asks for. */
    if (length + 4 < NEGOTIATION_BYTES || length + 4 > sizeof c->input || c->held > length + 4) {
        fail(c, "not the answer to OPTNEG");
        return;
    }
    if (c->held < length + 4)
        return;
    const char *wrong = accept_negotiation(c);
    if (wrong != NULL)
        fail(c, wrong);
    else if (!transmit_step(c, &opening))
        be_ready(c);
}

/* True if what was received is the awaited answer so far. */
static bool is_correct_so_far(const struct connection *c, const char *answer, size_t size)
{
    if (c->held > size)
        return false;
    if (c->awaited == EOM_REPLY && c->held == size && c->input[size - 1] == 'a')
        size--;
    return memcmp(c->input, answer, c->held < size ? c->held : size) == 0;
}

static void receive(struct connection *c)
{
    ssize_t got = recv(c->fd, c->input + c->held, sizeof c->input - c->held, MSG_DONTWAIT);

    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        fail(c, got == 0 ? "closed by the milter" : strerror(errno));
        return;
    }
    c->held += (size_t)got;

    switch (c->awaited) {
    case NEGOTIATION:
        receive_negotiation(c);
        break;
    case OPENING_REPLY:
    case STAGE_REPLY:
        if (!is_correct_so_far(c, CONTINUE, CONTINUE_BYTES)) {
            fail(c, "not CONTINUE");
        } else if (c->held == CONTINUE_BYTES) {
            c->step++;
            if (!transmit_step(c, c->awaited == OPENING_REPLY ? &opening : &following))
                be_ready(c);
        }
        break;
    case EOM_REPLY:
        if (!is_correct_so_far(c, last_answer.bytes, last_answer.size))
            fail(c, "not the edit and CONTINUE or ACCEPT");
        else if (c->held == last_answer.size)
            end_message(c);
        break;
    default:
        fail(c, "an answer to nothing");
    }
}

#endif
