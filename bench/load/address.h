/* Milter addresses, as the C programs of this benchmark take them: inet:PORT@IPV4 and unix:PATH. */

#ifndef BENCH_ADDRESS_H
#define BENCH_ADDRESS_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in inet;
        struct sockaddr_un local;
    } socket;
    socklen_t size;
};

/* Parse `text`; the program ends with a message if it is neither form. */
static inline struct address parse_address(const char *text)
{
    struct address address = {0};
    unsigned port;
    char host[16];

    if (sscanf(text, "inet:%5u@%15[0-9.]", &port, host) == 2 && port > 0 && port < 65536
        && inet_pton(AF_INET, host, &address.socket.inet.sin_addr) == 1) {
        address.socket.inet.sin_family = AF_INET;
        address.socket.inet.sin_port = htons((uint16_t)port);
        address.size = sizeof address.socket.inet;
    } else if (strncmp(text, "unix:", 5) == 0 && text[5] != '\0'
               && strlen(text + 5) < sizeof address.socket.local.sun_path) {
        address.socket.local.sun_family = AF_UNIX;
        strcpy(address.socket.local.sun_path, text + 5);
        address.size = sizeof address.socket.local;
    } else {
        fprintf(stderr, "not an address (inet:PORT@IPV4 or unix:PATH): %s\n", text);
        exit(2);
    }
    return address;
}

/* Send small packets at once: Nagle's algorithm would hold them back. Unix sockets have no such option. */
static inline void set_nodelay(int fd, const struct address *address)
{
    if (address->socket.any.sa_family == AF_INET)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

#endif
