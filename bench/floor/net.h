// Sockets for the three programs of the floor: addresses from "IP:PORT", listeners, epoll registration.
// Fails: every error ends the program with the name of the call; these are measuring tools, not services.
#pragma once
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, BACKLOG = 4096 };

static inline void die(const char *call) {
    perror(call);
    exit(1);
}

static inline int checked(int result, const char *call) {
    if (result < 0) die(call);
    return result;
}

static inline struct sockaddr_in address_of(const char *text) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[64] = "";
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof host) exit(fprintf(stderr, "expected IP:PORT, found %s\n", text));
    memcpy(host, text, (size_t)(colon - text));
    address.sin_port = htons((unsigned short)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) exit(fprintf(stderr, "expected an IPv4 address, found %s\n", host));
    return address;
}

static inline void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static inline int tcp_socket(void) {
    return checked(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");
}

static inline int listen_on(const char *text) {
    struct sockaddr_in address = address_of(text);
    int fd = tcp_socket(), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    checked(bind(fd, (struct sockaddr *)&address, sizeof address), "bind");
    checked(listen(fd, BACKLOG), "listen");
    return fd;
}

// A connection on its way; with a source address when one is given.
static inline int connect_to(const struct sockaddr_in *to, const struct sockaddr_in *from) {
    int fd = tcp_socket(), one = 1;
    no_delay(fd);
    if (from) {
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        checked(bind(fd, (const struct sockaddr *)from, sizeof *from), "bind source");
    }
    if (connect(fd, (const struct sockaddr *)to, sizeof *to) < 0 && errno != EINPROGRESS) die("connect");
    return fd;
}

static inline void watch(int epoll, int operation, int fd, unsigned events, void *what) {
    struct epoll_event event = {.events = events, .data.ptr = what};
    checked(epoll_ctl(epoll, operation, fd, &event), "epoll_ctl");
}
