/*
 * The physical limit: a bare epoll loop, one recv and one send a command, that answers like the
 * benchmark's filter and does nothing else.
 *
 *     floor ADDRESS [no-reply]
 *
 * It parses no more than the framing (u32 length, letter, payload), keeps no session state and
 * checks nothing, so it is a yardstick for the cost of the system calls and never a milter.
 * With `no-reply` it negotiates away the answers of every stage but the end of the message.
 */

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "../address.h"

enum { MAX_CONNECTIONS = 4096, MAX_EVENTS = 64, BUFFER_BYTES = 65536 + 5 };

/* SMFIP_NR_*: the stages that can be negotiated as "the filter will not reply". */
static const uint32_t NO_REPLY_STAGES = 0xFF080;

static const char CONTINUE[] = "\0\0\0\1c";
static const char EDIT_AND_CONTINUE[] = "\0\0\0\013hX-Bench\0001\0\0\0\0\1c";

struct connection {
    int fd;
    size_t held;            /* bytes of an incomplete packet at the start of the buffer */
    uint8_t buffer[BUFFER_BYTES];
};

/* Append the answer to the packet `letter`; returns the new end of the output. */
static char *answer(char *out, uint8_t letter, bool no_reply)
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
        reply = negotiated;
        size = sizeof negotiated - 1;
        break;
    }
    case 'E':
        reply = EDIT_AND_CONTINUE;
        size = sizeof EDIT_AND_CONTINUE - 1;
        break;
    default:
        if (no_reply)
            return out;
    }
    memcpy(out, reply, size);
    return out + size;
}

/* Answer all complete packets of one read with one write; false when the connection is over. */
static bool serve(struct connection *c, bool no_reply)
{
    static char out[BUFFER_BYTES * 8];      /* 5 bytes of input give at most 26 of output */
    char *end = out;
    ssize_t got = recv(c->fd, c->buffer + c->held, sizeof c->buffer - c->held, 0);

    if (got <= 0)
        return false;
    c->held += (size_t)got;

    uint8_t *packet = c->buffer;
    uint8_t *limit = c->buffer + c->held;
    while (limit - packet >= 5) {
        uint32_t length;
        memcpy(&length, packet, sizeof length);
        length = ntohl(length);
        if (length == 0 || length > 65536 || packet[4] == 'Q')
            return false;
        if ((size_t)(limit - packet) < 4 + (size_t)length)
            break;
        end = answer(end, packet[4], no_reply);
        packet += 4 + length;
    }
    c->held = (size_t)(limit - packet);
    memmove(c->buffer, packet, c->held);
    return end == out || send(c->fd, out, (size_t)(end - out), MSG_NOSIGNAL) == end - out;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: floor ADDRESS [no-reply]\n");
        return 2;
    }
    struct address address = parse_address(argv[1]);
    bool no_reply = argc > 2 && strcmp(argv[2], "no-reply") == 0;

    int listener = socket(address.socket.any.sa_family, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, &address.socket.any, address.size) != 0 || listen(listener, 1024) != 0) {
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
                c = fd < 0 || fd >= MAX_CONNECTIONS ? NULL : calloc(1, sizeof *c);
                if (c == NULL) {
                    perror("accept");
                    return 1;
                }
                c->fd = fd;
                set_nodelay(fd, &address);
                epoll_ctl(poll, EPOLL_CTL_ADD, fd,
                          &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
            } else if (!serve(c, no_reply)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
