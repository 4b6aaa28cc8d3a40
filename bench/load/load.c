/*
 * Load for a milter: the MTA's side of many SMTP sessions at once, from one thread.
 *
 *     load [OPTION]... ADDRESS
 *
 *     -n COUNT     connections                                              (default 50)
 *     -m COUNT     messages on all of them together; 0: none                (default 1000)
 *     -k COUNT     messages on one connection, then QUIT and another one    (default: no limit)
 *     -r RATE      messages begin at this rate a second, in turn on all connections; without it
 *                  a connection begins its next message when the last one is done
 *     -H COUNT     headers of a message                                     (default 12)
 *     -B BYTES     its body                                                 (default 4096)
 *     -P BYTES     a packet of the body at most                             (default 65535)
 *     -e           header 3 must be changed; without it, one must be added
 *     -a           ABORT goes ahead of each message, as Postfix sends it after each message
 *     -s           each packet is a write of its own, and Nagle's algorithm is on, as in Sendmail
 *     -c CORE      run on this core
 *     -t SECONDS   give up when the messages take longer                    (default 60)
 *     -b           poll without ever sleeping
 *
 * It opens the connections (OPTNEG, macros and CONNECT, HELO), prints `ready` and waits for a line
 * on its input. Then it sends the messages in lockstep (a packet leaves when the answer to the
 * previous one is in): macros + MAIL, twice macros + RCPT, DATA, HEADERs, EOH, BODY, EOM. It prints
 * one line of JSON, and at the end of its input it says QUIT on every connection and ends.
 *
 * Every answer is compared byte for byte: CONTINUE everywhere, at EOM one edit and then CONTINUE
 * or ACCEPT, and nothing after it. A connection that breaks this is closed and is an error.
 *
 * A sleeping generator must be woken by the milter's write, and the kernel charges that work to
 * the milter: how much depends on how often the generator sleeps, that is, on how slow the milter
 * is. -b takes that out.
 */

#define _GNU_SOURCE
#include <math.h>
#include <sched.h>
#include <sys/timerfd.h>

#include "session.h"

enum { MAX_EVENTS = 64, OPENED_AT_ONCE = 64 };

static int timer_fd;

/* Wake up when the message with this number begins. */
static void set_timer(long number)
{
    double time = begins_at(number);
    struct itimerspec at = {.it_value = {
        .tv_sec = (time_t)time, .tv_nsec = (long)((time - floor(time)) * 1e9)}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

/* Handle what happens until it is over or something is wrong; returns the time spent waiting. */
static double run_until(bool (*is_over)(void), double give_up_at)
{
    double waited_s = 0;
    long next_number = 0;

    if (is_running && options.rate > 0)
        set_timer(0);
    while (!is_over() && !has_failed) {
        struct epoll_event events[MAX_EVENTS];
        double before = now();
        int ready = epoll_wait(poll_fd, events, MAX_EVENTS, options.polls ? 0 : 100);

        if (ready == 0 || !options.polls)
            waited_s += now() - before;
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == NULL) {
                uint64_t times;
                if (read(timer_fd, &times, sizeof times) < 0)
                    continue;
                double time = now();
                for (; next_number < options.messages && begins_at(next_number) <= time;
                     next_number++)
                    begin_message(&connections[next_number % options.connections]);
                if (next_number < options.messages)
                    set_timer(next_number);
                continue;
            }
            if (events[i].events & EPOLLOUT)
                write_output(c);
            if (c->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT)
                receive(c);
        }
        if (before > give_up_at) {
            fprintf(stderr, "out of time\n");
            has_failed = true;
        }
    }
    return waited_s;
}

static long asked_connections;          /* how many are to be ready */

static bool are_ready(void)
{
    return ready_connections >= asked_connections;
}

static bool are_messages_done(void)
{
    return messages_done >= options.messages;
}

static bool are_closed(void)
{
    return open_connections == 0;
}

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

static void report(double waited_s)
{
    double seconds = messages_done > 0 ? last_done - started : 0;

    qsort(latencies, (size_t)messages_done, sizeof *latencies, by_value);
    printf("{\"messages\": %ld, \"seconds\": %.6f, \"messages_per_s\": %.1f, "
           "\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"p999_ms\": %.3f, \"max_ms\": %.3f, "
           "\"replies_per_message\": %d, \"generator_busy\": %.3f, \"protocol\": %u}\n",
           messages_done, seconds, seconds > 0 ? (double)messages_done / seconds : 0,
           percentile_ms(50), percentile_ms(99), percentile_ms(99.9), percentile_ms(100),
           following.count, seconds > 0 ? fmax(0, 1 - waited_s / seconds) : 0, agreed_protocol);
    fflush(stdout);
}

static void wait_for_input(bool until_end)
{
    int letter;

    while ((letter = getchar()) != EOF && (until_end || letter != '\n'))
        ;
    if (letter == EOF && !until_end)
        exit(1);                /* whoever measures is gone */
}

static double number_from(const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);

    if (*end != '\0' || !(value >= least && value <= most)) {
        fprintf(stderr, "not a number from %g to %g: %s\n", least, most, text);
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

static void parse_options(int argc, char **argv)
{
    for (int option; (option = getopt(argc, argv, "n:m:k:r:H:B:P:aesc:t:b")) != -1;) {
        switch (option) {
        case 'n': options.connections = (long)number_from(optarg, 1, 1e5); break;
        case 'm': options.messages = (long)number_from(optarg, 0, 1e8); break;
        case 'k': options.messages_per_connection = (long)number_from(optarg, 1, 1e8); break;
        case 'r': options.rate = number_from(optarg, 0.001, 1e6); break;
        case 'H': options.message.headers = (int)number_from(optarg, 0, 1e4); break;
        case 'B': options.message.body_bytes = (size_t)number_from(optarg, 0, 1e8); break;
        case 'P': options.message.piece_bytes = (size_t)number_from(optarg, 1, 65535); break;
        case 'e': options.message.is_changed = true; break;
        case 'a': options.aborts = true; break;
        case 's': options.is_split = true; break;
        case 'c': pin_to_core((int)number_from(optarg, 0, 1023)); break;
        case 't': options.limit_s = (long)number_from(optarg, 1, 3600); break;
        case 'b': options.polls = true; break;
        default: exit(2);
        }
    }
    if (optind != argc - 1 || (options.rate > 0 && options.messages_per_connection > 0)) {
        fprintf(stderr, "usage: load [OPTION]... ADDRESS (see load.c; -r excludes -k)\n");
        exit(2);
    }
    options.address = parse_address(argv[optind]);
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    poll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd,
              &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});
    connections = checked(calloc((size_t)options.connections, sizeof *connections));
    latencies = checked(malloc((size_t)(options.messages + 1) * sizeof *latencies));

    double give_up_at = now() + (double)options.limit_s;
    while (asked_connections < options.connections && !has_failed) {
        for (int i = 0; i < OPENED_AT_ONCE && asked_connections < options.connections; i++) {
            connections[asked_connections].number = asked_connections;
            open_connection(&connections[asked_connections++]);
        }
        run_until(are_ready, give_up_at);
    }
    if (has_failed)
        return 1;
    puts("ready");
    fflush(stdout);
    wait_for_input(false);

    is_running = true;
    started = now();
    for (long i = 0; i < options.connections && options.rate == 0; i++)
        begin_message(&connections[i]);
    double waited_s = run_until(are_messages_done, started + (double)options.limit_s);
    if (has_failed)
        return 1;
    report(waited_s);
    wait_for_input(true);

    is_closing = true;
    for (long i = 0; i < options.connections; i++)
        if (connections[i].fd >= 0 && connections[i].awaited == NOTHING)
            say_goodbye(&connections[i]);
    run_until(are_closed, now() + (double)options.limit_s);
    return has_failed;
}
