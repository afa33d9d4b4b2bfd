// The application behind every contender: one fixed answer with a 1 KB body per request, keep-alive, nothing parsed
// beyond the empty line that ends a head.
// In:     backend IP:PORT... ; requests without a body.
// Limits: one thread; a head lies within one read of 64 KiB, or is continued: the last three bytes are remembered.
#define _GNU_SOURCE
#include "net.h"

enum { BODY = 1024, BUFFER = 64 * 1024, CONNECTIONS = 65536 };

static char answer[BODY + 256];
static size_t answer_length;
static unsigned char seen[CONNECTIONS]; // by descriptor: how much of "\r\n\r\n" has come
static char is_listener[CONNECTIONS];

static void prepare(void) {
    int head = sprintf(answer, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n", BODY);
    memset(answer + head, 'x', BODY);
    answer_length = (size_t)head + BODY;
}

static int heads_in(int fd, const char *bytes, ssize_t length) {
    static const char end[] = "\r\n\r\n";
    int found = 0;
    unsigned char at = seen[fd];
    for (ssize_t i = 0; i < length; i++) {
        at = bytes[i] == end[at] ? at + 1 : bytes[i] == '\r';
        if (at == 4) {
            found++;
            at = 0;
        }
    }
    seen[fd] = at;
    return found;
}

static int send_answer(int fd) {
    for (size_t sent = 0; sent < answer_length;) {
        ssize_t put = write(fd, answer + sent, answer_length - sent);
        if (put < 0 && errno != EAGAIN) return -1;
        if (put < 0) usleep(50); // a client that does not read: not what is measured here
        else sent += (size_t)put;
    }
    return 0;
}

static void serve(int fd) {
    static char buffer[BUFFER];
    ssize_t got = read(fd, buffer, BUFFER);
    if (got < 0 && errno == EAGAIN) return;
    int heads = got > 0 ? heads_in(fd, buffer, got) : -1;
    for (; heads > 0; heads--) {
        if (send_answer(fd) < 0) heads = 0;
    }
    if (heads < 0) close(fd);
}

static void add(int epoll, int fd) {
    if (fd >= CONNECTIONS) exit(fprintf(stderr, "more than %d connections\n", CONNECTIONS));
    seen[fd] = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    checked(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

static void take(int epoll, int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        no_delay(fd);
        add(epoll, fd);
    }
}

int main(int count, char **words) {
    prepare();
    int epoll = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    for (int i = 1; i < count; i++) {
        int listener = listen_on(words[i]);
        is_listener[listener] = 1;
        add(epoll, listener);
    }
    struct epoll_event events[EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (is_listener[fd]) take(epoll, fd);
            else serve(fd);
        }
    }
}
