// Both ends of a bulk transfer: a source that sends as fast as it may, and a sink that counts, or checks every byte.
// In:     bulk source IP:PORT...                     serves every connection once it has sent its first bytes;
//         bulk sink IP:PORT CHECKED_BYTES RUN_MS     first checks that many bytes, then waits for a line on stdin.
// Out:    "ready" once the checked bytes were right; after the run one JSON line.
// Limits: one thread each. The stream is 8-byte words that count up to the end of a block of BLOCK bytes and start again:
//         what is lost, doubled or moved shows in the checked part; the measured part drops bytes unread (MSG_TRUNC).
// Fails:  a wrong byte or an early end is an error: it is printed, and such a run is no figure.
#define _GNU_SOURCE
#include "net.h"
#include <signal.h>
#include <stdint.h>
#include <time.h>

enum { BLOCK = 1024 * 1024, CONNECTIONS = 1024 };

static uint64_t block[BLOCK / 8];
static size_t sent[CONNECTIONS]; // by descriptor: where in the block its next byte is
static char is_listener[CONNECTIONS];

static void take(int epoll, int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= CONNECTIONS) exit(fprintf(stderr, "more than %d connections\n", CONNECTIONS));
        no_delay(fd);
        sent[fd] = 0;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        checked(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
    }
}

// Sends until the socket is full or one block went out, so that connections take turns.
static int give(int fd) {
    size_t left = BLOCK;
    while (left > 0) {
        size_t at = sent[fd], part = BLOCK - at < left ? BLOCK - at : left;
        ssize_t put = write(fd, (char *)block + at, part);
        if (put < 0) return errno == EAGAIN ? 0 : -1;
        sent[fd] = (at + (size_t)put) % BLOCK;
        left -= (size_t)put;
    }
    return 0;
}

static void serve(int epoll, const struct epoll_event *event) {
    int fd = event->data.fd;
    char word[64];
    if (event->events & EPOLLIN) {
        ssize_t got = read(fd, word, sizeof word);
        if (got == 0 || (got < 0 && errno != EAGAIN)) {
            close(fd);
            return;
        }
        struct epoll_event both = {.events = EPOLLIN | EPOLLOUT, .data.fd = fd};
        checked(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &both), "epoll_ctl");
    }
    if ((event->events & EPOLLOUT) && give(fd) < 0) close(fd);
    else if (!(event->events & EPOLLOUT) && (event->events & (EPOLLHUP | EPOLLERR))) close(fd);
}

_Noreturn static void source(int count, char **addresses) {
    int epoll = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    for (int i = 0; i < count; i++) {
        int listener = listen_on(addresses[i]);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
        is_listener[listener] = 1;
        checked(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event), "epoll_ctl");
    }
    struct epoll_event events[EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            if (is_listener[events[i].data.fd]) take(epoll, events[i].data.fd);
            else serve(epoll, &events[i]);
        }
    }
}

static long now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

// Reads this many bytes and compares each with what the source sends at its place.
static int check(int fd, size_t wanted) {
    static char got[BLOCK];
    for (size_t seen = 0; seen < wanted;) {
        size_t at = seen % BLOCK, room = BLOCK - at < wanted - seen ? BLOCK - at : wanted - seen;
        ssize_t part = read(fd, got, room);
        if (part <= 0) return fprintf(stderr, "the stream ended after %zu of %zu bytes\n", seen, wanted), -1;
        if (memcmp(got, (char *)block + at, (size_t)part)) return fprintf(stderr, "a wrong byte near %zu\n", seen), -1;
        seen += (size_t)part;
    }
    return 0;
}

static int sink(char **words) {
    struct sockaddr_in to = address_of(words[0]);
    int fd = checked(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    struct timeval patience = {.tv_sec = 10};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    checked(connect(fd, (struct sockaddr *)&to, sizeof to), "connect");
    checked((int)write(fd, "go\n", 3), "write");
    if (check(fd, (size_t)atol(words[1])) < 0) return 1;
    printf("ready\n");
    fflush(stdout);
    if (getchar() == EOF) return 0;
    static char dropped[BLOCK];
    long start = now_us(), end = start + atol(words[2]) * 1000, bytes = 0, errors = 0;
    while (now_us() < end && !errors) {
        ssize_t got = recv(fd, dropped, sizeof dropped, MSG_TRUNC);
        if (got > 0) bytes += got;
        else errors = 1;
    }
    printf("{\"bytes\": %ld, \"errors\": %ld, \"seconds\": %.4f}\n", bytes, errors, (double)(now_us() - start) / 1e6);
    return 0;
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < BLOCK / 8; i++) block[i] = i;
    if (count >= 3 && strcmp(words[1], "source") == 0) source(count - 2, words + 2);
    if (count == 5 && strcmp(words[1], "sink") == 0) return sink(words + 2);
    return fprintf(stderr, "usage: bulk source IP:PORT... | bulk sink IP:PORT CHECKED_BYTES RUN_MS\n");
}
