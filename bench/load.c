/*
 * Load for a milter: the MTA's side of many SMTP sessions at once, from one thread.
 *
 *     load [-n CONNECTIONS] [-m MESSAGES] [-c CORE] [-t SECONDS] [-b] ADDRESS
 *
 * Workload W1, in lockstep (a packet leaves when the answer to the previous one is in):
 * OPTNEG, macros + CONNECT, HELO once a connection; then for each message macros + MAIL,
 * twice macros + RCPT, DATA, 12 HEADER, EOH, BODY of 4 KiB, EOM; QUIT at the end.
 *
 * Stages that the milter negotiated away are not sent. Packets that it will not answer are held
 * back and leave together with the next one that it does answer, in one write, as Postfix's
 * buffered stream does it. Macros always travel with the command that they belong to.
 *
 * Every answer is compared byte for byte: CONTINUE everywhere, at EOM one ADDHEADER "X-Bench: 1"
 * and then CONTINUE or ACCEPT, and nothing after it. A connection that breaks this is closed and
 * counts as an error. The result is one line of JSON on standard output.
 *
 * -b polls without ever sleeping. A sleeping generator must be woken by the milter's write, and
 * the kernel charges that work to the milter: how much depends on how often the generator sleeps,
 * that is, on how slow the milter is.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "address.h"

enum { MAX_EVENTS = 64, MAX_STEPS = 32, HEADERS = 12, BODY_BYTES = 4096, REPORTED_ERRORS = 5 };

/* ---- The dialogue ------------------------------------------------------------------------- */

/* Protocol bits: SMFIP_NO* (the stage is not sent) and SMFIP_NR_* (it gets no answer). */
static const struct stage {
    char letter;
    uint32_t not_wanted;
    uint32_t no_reply;
} STAGES[] = {
    {'C', 0x1, 0x1000},    {'H', 0x2, 0x2000},  {'M', 0x4, 0x4000},   {'R', 0x8, 0x8000},
    {'T', 0x200, 0x10000}, {'L', 0x20, 0x80},   {'N', 0x40, 0x40000}, {'B', 0x10, 0x80000},
    {'E', 0, 0},
};

static const uint32_t OFFERED_ACTIONS = 0x1ff, OFFERED_PROTOCOL = 0x1fffff;

/* Turn a string literal into "bytes, size": the packets contain NULs, the last one is implied. */
#define TEXT(literal) literal, sizeof(literal)

static const char OFFER[] = "\0\0\0\015O\0\0\0\6\0\0\1\377\0\037\377\377";
static const char QUIT[] = "\0\0\0\1Q";
static const char CONTINUE[] = "\0\0\0\1c";
static const char EDIT[] = "\0\0\0\013hX-Bench\0001\0\0\0\0\1c";      /* its last byte: c or a */

enum { NEGOTIATION_BYTES = 17, CONTINUE_BYTES = 5, EDIT_BYTES = 20 };

/* What the milter must send next. */
enum awaited { NEGOTIATION, STAGE_REPLY, EOM_REPLY, END_OF_STREAM };

/* The bytes of one write, and the answer that follows it. */
struct step {
    const uint8_t *data;
    size_t size;
    enum awaited awaited;
};

/* All the writes of one message; the first message of a connection starts with CONNECT and HELO. */
struct script {
    struct step steps[MAX_STEPS];
    int count;
    uint8_t bytes[16384];
    size_t used;
    size_t written;         /* start of the bytes that belong to no step yet */
};

static struct script opening, following;

static void add_packet(struct script *script, char letter, const void *payload, size_t size)
{
    uint32_t length = htonl((uint32_t)size + 1);

    if (script->used + 5 + size > sizeof script->bytes)
        abort();
    memcpy(script->bytes + script->used, &length, 4);
    script->bytes[script->used + 4] = (uint8_t)letter;
    memcpy(script->bytes + script->used + 5, payload, size);
    script->used += 5 + size;
}

/* Add a command, unless it is not wanted; end the step here if it is answered. */
static void add_command(struct script *script, uint32_t protocol, char letter,
                        const void *payload, size_t size)
{
    const struct stage *stage = STAGES;

    while (stage->letter != letter)
        stage++;
    if (protocol & stage->not_wanted)
        return;
    add_packet(script, letter, payload, size);
    if (protocol & stage->no_reply)
        return;
    script->steps[script->count++] = (struct step){
        .data = script->bytes + script->written,
        .size = script->used - script->written,
        .awaited = letter == 'E' ? EOM_REPLY : STAGE_REPLY,
    };
    script->written = script->used;
}

static void write_script(struct script *script, uint32_t protocol, bool is_opening)
{
    char text[128];
    uint8_t body[BODY_BYTES];

    if (is_opening) {
        add_packet(script, 'D', TEXT("Cj\0mail.example.org\0{daemon_name}\0smtpd\0v\0Load 1"));
        add_command(script, protocol, 'C', TEXT("client.example.net\0004\100\000192.0.2.1"));
        add_command(script, protocol, 'H', TEXT("client.example.net"));
    }
    add_packet(script, 'D', TEXT("Mi\0004B1C2D3E4F\0{mail_addr}\0sender@example.net\0"
                                 "{mail_host}\0example.net\0{mail_mailer}\0smtp"));
    add_command(script, protocol, 'M', TEXT("<sender@example.net>\0SIZE=5000\0BODY=8BITMIME"));
    for (int i = 1; i <= 2; i++) {
        int size = snprintf(text, sizeof text, "R{rcpt_addr}%cuser%d@example.org%c{rcpt_host}%c"
                            "example.org%c{rcpt_mailer}%clocal", 0, i, 0, 0, 0, 0);
        add_packet(script, 'D', text, (size_t)size + 1);
        size = snprintf(text, sizeof text, "<user%d@example.org>", i);
        add_command(script, protocol, 'R', text, (size_t)size + 1);
    }
    add_command(script, protocol, 'T', "", 0);
    for (int i = 1; i <= HEADERS; i++) {
        int size = snprintf(text, sizeof text, "X-Header-%d%cvalue number %d of an ordinary header"
                            " of ordinary length", i, 0, i);
        add_command(script, protocol, 'L', text, (size_t)size + 1);
    }
    add_command(script, protocol, 'N', "", 0);
    for (int i = 0; i < BODY_BYTES; i++)        /* lines of 64 bytes, ended by CR LF */
        body[i] = (uint8_t)(i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : 'a' + i % 26);
    add_command(script, protocol, 'B', body, sizeof body);
    add_command(script, protocol, 'E', "", 0);
}

/* ---- Connections -------------------------------------------------------------------------- */

struct connection {
    int fd;                     /* -1 when closed */
    enum awaited awaited;
    const struct script *script;
    int step;
    double message_started;
    size_t held;
    char input[64];             /* more than any correct answer, so a surplus is seen */
};

static struct connection *connections;
static long open_connections, messages_to_start, messages_done, errors;
static double *latencies;
static double last_done;
static char negotiated[NEGOTIATION_BYTES];      /* the first answer; all others must equal it */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void close_connection(struct connection *c)
{
    close(c->fd);
    c->fd = -1;
    open_connections--;
}

static void fail(struct connection *c, const char *what)
{
    if (errors++ < REPORTED_ERRORS) {
        fprintf(stderr, "connection %ld, step %d: %s; received:", (long)(c - connections), c->step,
                what);
        for (size_t i = 0; i < c->held; i++)
            fprintf(stderr, " %02x", (uint8_t)c->input[i]);
        fputc('\n', stderr);
    }
    close_connection(c);
}

static void transmit(struct connection *c, const void *data, size_t size, enum awaited awaited)
{
    c->held = 0;
    c->awaited = awaited;
    /* The milter waits for these few KiB, so they always fit into an idle socket's buffer. */
    if (send(c->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size)
        fail(c, "could not send");
}

static void transmit_step(struct connection *c)
{
    const struct step *step = &c->script->steps[c->step];
    transmit(c, step->data, step->size, step->awaited);
}

static void start_message(struct connection *c, const struct script *script)
{
    if (messages_to_start == 0) {
        transmit(c, QUIT, sizeof QUIT - 1, END_OF_STREAM);
        return;
    }
    messages_to_start--;
    c->script = script;
    c->step = 0;
    c->message_started = now();
    transmit_step(c);
}

/* Check the answer to OPTNEG and write the scripts by it; returns what is wrong, or NULL. */
static const char *accept_negotiation(const struct connection *c)
{
    uint32_t actions, protocol;

    if (memcmp(c->input, OFFER, 9) != 0)        /* length, letter and version: as we sent them */
        return "not the answer to OPTNEG";
    if (opening.count > 0)
        return memcmp(c->input, negotiated, sizeof negotiated) == 0
            ? NULL : "negotiated otherwise than the first connection";
    memcpy(negotiated, c->input, sizeof negotiated);
    memcpy(&actions, c->input + 9, 4);
    memcpy(&protocol, c->input + 13, 4);
    actions = ntohl(actions);
    protocol = ntohl(protocol);
    if ((actions & ~OFFERED_ACTIONS) || !(actions & 1) || (protocol & ~OFFERED_PROTOCOL))
        return "negotiated what was not offered, or not to add headers";
    write_script(&opening, protocol, true);
    write_script(&following, protocol, false);
    return NULL;
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
    ssize_t got = recv(c->fd, c->input + c->held, sizeof c->input - c->held, 0);

    if (got <= 0) {
        if (c->awaited == END_OF_STREAM && got == 0)
            close_connection(c);
        else
            fail(c, got == 0 ? "closed by the milter" : strerror(errno));
        return;
    }
    c->held += (size_t)got;

    if (c->awaited == STAGE_REPLY) {
        if (!is_correct_so_far(c, CONTINUE, CONTINUE_BYTES)) {
            fail(c, "not CONTINUE");
        } else if (c->held == CONTINUE_BYTES) {
            c->step++;
            transmit_step(c);
        }
    } else if (c->awaited == EOM_REPLY) {
        if (!is_correct_so_far(c, EDIT, EDIT_BYTES)) {
            fail(c, "not ADDHEADER and CONTINUE or ACCEPT");
        } else if (c->held == EDIT_BYTES) {
            last_done = now();
            latencies[messages_done++] = last_done - c->message_started;
            start_message(c, &following);
        }
    } else if (c->awaited == NEGOTIATION) {
        const char *wrong = c->held < NEGOTIATION_BYTES ? NULL : accept_negotiation(c);
        if (wrong != NULL || c->held > NEGOTIATION_BYTES)
            fail(c, wrong != NULL ? wrong : "more than the answer to OPTNEG");
        else if (c->held == NEGOTIATION_BYTES)
            start_message(c, &opening);
    } else {
        fail(c, "an answer to QUIT");
    }
}

/* ---- The run ------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile_ms(double percent)
{
    if (messages_done == 0)
        return 0;
    return latencies[(long)((double)(messages_done - 1) * percent / 100)] * 1e3;
}

static long positive(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (*end != '\0' || value < 1 || value > 100000000) {
        fprintf(stderr, "not a number from 1 to 100000000: %s\n", text);
        exit(2);
    }
    return value;
}

static void pin_to_core(int core)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        perror("sched_setaffinity");
        exit(1);
    }
}

static void open_connection(struct connection *c, const struct address *address, int poll)
{
    struct timeval limit = {.tv_sec = 10};

    c->fd = socket(address->socket.any.sa_family, SOCK_STREAM, 0);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);   /* bounds connect too */
    if (c->fd < 0 || connect(c->fd, &address->socket.any, address->size) != 0) {
        perror("connect");
        exit(1);
    }
    set_nodelay(c->fd, address);
    epoll_ctl(poll, EPOLL_CTL_ADD, c->fd,
              &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
    open_connections++;
}

int main(int argc, char **argv)
{
    long count = 50, messages = 1000, limit_s = 60;
    bool busy_poll = false;

    for (int option; (option = getopt(argc, argv, "n:m:c:t:b")) != -1;) {
        switch (option) {
        case 'n': count = positive(optarg); break;
        case 'm': messages = positive(optarg); break;
        case 'c': pin_to_core(atoi(optarg)); break;
        case 't': limit_s = positive(optarg); break;
        case 'b': busy_poll = true; break;
        default: return 2;
        }
    }
    if (optind != argc - 1) {
        fprintf(stderr, "usage: load [-n CONNECTIONS] [-m MESSAGES] [-c CORE] [-t SECONDS] [-b]"
                        " ADDRESS\n");
        return 2;
    }
    struct address address = parse_address(argv[optind]);
    int poll = epoll_create1(0);

    connections = calloc((size_t)count, sizeof *connections);
    latencies = malloc((size_t)messages * sizeof *latencies);
    messages_to_start = messages;
    for (long i = 0; i < count; i++)
        open_connection(&connections[i], &address, poll);

    double start = now(), idle_s = 0;
    for (long i = 0; i < count; i++)
        transmit(&connections[i], OFFER, sizeof OFFER - 1, NEGOTIATION);

    while (open_connections > 0) {
        struct epoll_event events[MAX_EVENTS];
        double before = now();
        int ready = epoll_wait(poll, events, MAX_EVENTS, busy_poll ? 0 : 100);

        if (ready == 0 || !busy_poll)
            idle_s += now() - before;
        for (int i = 0; i < ready; i++)
            receive(events[i].data.ptr);
        if (before - start > (double)limit_s) {
            for (long i = 0; i < count; i++)
                if (connections[i].fd >= 0)
                    fail(&connections[i], "out of time");
        }
    }

    double seconds = (messages_done > 0 ? last_done : now()) - start;
    qsort(latencies, (size_t)messages_done, sizeof *latencies, by_value);
    printf("{\"messages\": %ld, \"seconds\": %.6f, \"messages_per_s\": %.1f, \"latency_ms\": "
           "{\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f}, \"errors\": %ld, "
           "\"replies_per_message\": %d, \"generator_busy\": %.3f}\n",
           messages_done, seconds, (double)messages_done / seconds, percentile_ms(50),
           percentile_ms(90), percentile_ms(99), percentile_ms(100), errors,
           following.count, 1 - idle_s / seconds);
    return errors == 0 ? 0 : 1;
}
