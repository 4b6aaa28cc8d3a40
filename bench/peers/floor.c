/*
 * The physical limit: a bare epoll loop, one recv and one send a command, that answers like the
 * benchmark's filter and does nothing else.
 *
 *     floor ADDRESS [no-reply] [change]
 *
 * It parses no more than the framing (u32 length, letter, payload), keeps no session state, copies
 * nothing and checks nothing, so it is a yardstick for the cost of the system calls and never a
 * milter.
 *     no-reply   negotiate away the answers of every stage but the end of the message
 *     change     change header 3 instead of adding one
 */

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "../load/address.h"

enum { MAX_EVENTS = 64, BUFFER_BYTES = 262144, MAX_PACKET_BYTES = 65536 };

/* SMFIP_NR_*: the stages that can be negotiated as "the filter will not reply". */
static const uint32_t NO_REPLY_STAGES = 0xFF080;

static const char CONTINUE[] = "\0\0\0\1c";
static const char ADD_AND_CONTINUE[] = "\0\0\0\013hX-Bench\0001\0\0\0\0\1c";
static const char CHANGE_AND_CONTINUE[] = "\0\0\0\030m\0\0\0\1X-Header-3\0changed\0\0\0\0\1c";

static bool no_reply, is_changed;

struct connection {
    int fd;
    unsigned held;              /* bytes of length and letter that have come in */
    uint32_t to_skip;           /* bytes of the payload that have not */
    uint8_t head[5];
};

/* Append the answer to the packet `letter`; returns the new end of the output. */
static char *answer(char *out, uint8_t letter)
{
    const char *reply = CONTINUE;
    size_t size = sizeof CONTINUE - 1;
    char negotiated[] = "\0\0\0\015O\0\0\0\6\0\0\0\1\0\0\0\0";

    switch (letter) {
    case 'D': case 'A': case 'Q':           /* macros, abort, quit: never answered */
        return out;
    case 'O': {
        uint32_t protocol = htonl(no_reply ? NO_REPLY_STAGES : 0);
        memcpy(negotiated + 13, &protocol, sizeof protocol);
        negotiated[12] = is_changed ? 0x10 : 1;
        reply = negotiated;
        size = sizeof negotiated - 1;
        break;
    }
    case 'E':
        reply = is_changed ? CHANGE_AND_CONTINUE : ADD_AND_CONTINUE;
        size = is_changed ? sizeof CHANGE_AND_CONTINUE - 1 : sizeof ADD_AND_CONTINUE - 1;
        break;
    default:
        if (no_reply)
            return out;
    }
    memcpy(out, reply, size);
    return out + size;
}

/* Answer all complete packets of one read with one write; false when the connection is over. */
static bool serve(struct connection *c)
{
    static uint8_t in[BUFFER_BYTES];
    static char out[BUFFER_BYTES * 8];      /* 5 bytes of input give at most 33 of output */
    char *end = out;
    ssize_t got = recv(c->fd, in, sizeof in, 0);

    if (got <= 0)
        return false;
    for (const uint8_t *at = in, *limit = in + got; at < limit;) {
        if (c->held < sizeof c->head) {
            c->head[c->held++] = *at++;
            if (c->held < sizeof c->head)
                continue;
            memcpy(&c->to_skip, c->head, sizeof c->to_skip);
            c->to_skip = ntohl(c->to_skip) - 1;
            if (c->to_skip > MAX_PACKET_BYTES || c->head[4] == 'Q')
                return false;
        }
        uint32_t here = c->to_skip < (size_t)(limit - at) ? c->to_skip : (uint32_t)(limit - at);
        at += here;
        c->to_skip -= here;
        if (c->to_skip == 0) {
            end = answer(end, c->head[4]);
            c->held = 0;
        }
    }
    return end == out || send(c->fd, out, (size_t)(end - out), MSG_NOSIGNAL) == end - out;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: floor ADDRESS [no-reply] [change]\n");
        return 2;
    }
    struct address address = parse_address(argv[1]);
    for (int i = 2; i < argc; i++) {
        no_reply |= strcmp(argv[i], "no-reply") == 0;
        is_changed |= strcmp(argv[i], "change") == 0;
    }

    int listener = socket(address.socket.any.sa_family, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, &address.socket.any, address.size) != 0 || listen(listener, 4096) != 0) {
        perror(argv[1]);
        return 1;
    }

    int poll = epoll_create1(0);
    struct epoll_event events[MAX_EVENTS] = {{.events = EPOLLIN, .data.ptr = NULL}};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &events[0]);

    for (;;) {
        int ready = epoll_wait(poll, events, MAX_EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == NULL) {
                int fd = accept(listener, NULL, NULL);
                c = fd < 0 ? NULL : calloc(1, sizeof *c);
                if (c == NULL) {
                    perror("accept");
                    return 1;
                }
                c->fd = fd;
                set_nodelay(fd, &address);
                epoll_ctl(poll, EPOLL_CTL_ADD, fd,
                          &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
            } else if (!serve(c)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
