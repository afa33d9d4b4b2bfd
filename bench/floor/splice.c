// The floor of bulk transfer: bytes go from socket to socket through a pipe and never enter this process.
// In:     splice LISTEN_IP:PORT UPSTREAM_IP:PORT [SOURCE_IP:0]; one upstream connection per accepted one.
// Limits: one thread; a pipe of PIPE bytes for each direction; an end of stream is passed on, an error closes both.
#define _GNU_SOURCE
#include "net.h"
#include <fcntl.h>
#include <signal.h>

enum { PIPE = 1024 * 1024 };

struct end {
    int fd;
    struct end *other;
    int pipe_in, pipe_out; // bytes that came from this end
    size_t held;           // of them, not yet taken by the other end
    int ended;             // this end has sent its last byte
};

static int epoll;

static void await(struct end *end) {
    unsigned events = (end->held < PIPE / 2 && !end->ended ? EPOLLIN : 0) | (end->other->held > 0 ? EPOLLOUT : 0);
    watch(epoll, EPOLL_CTL_MOD, end->fd, events, end);
}

static void close_both(struct end *end) {
    struct end *both[] = {end, end->other};
    for (int i = 0; i < 2; i++) {
        close(both[i]->fd);
        close(both[i]->pipe_in);
        close(both[i]->pipe_out);
        both[i]->fd = -1; // events of this turn may still name it: the memory stays
    }
}

// Moves what this end has sent: into the pipe, and as much of it as the other end takes.
static int move_from(struct end *from) {
    const unsigned flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;
    if (!from->ended && from->held < PIPE / 2) {
        ssize_t got = splice(from->fd, NULL, from->pipe_in, NULL, PIPE, flags);
        if (got < 0 && errno != EAGAIN) return -1;
        if (got == 0) from->ended = 1;
        if (got > 0) from->held += (size_t)got;
    }
    if (from->held > 0) {
        ssize_t put = splice(from->pipe_out, NULL, from->other->fd, NULL, from->held, flags);
        if (put < 0 && errno != EAGAIN && errno != ENOTCONN) return -1;
        if (put > 0) from->held -= (size_t)put;
    }
    if (from->ended && from->held == 0) shutdown(from->other->fd, SHUT_WR);
    return from->ended && from->other->ended && from->held + from->other->held == 0 ? -1 : 0;
}

static void serve(const struct epoll_event *event) {
    struct end *end = event->data.ptr;
    if (end->fd < 0) return;
    if (event->events & EPOLLERR) return close_both(end);
    if ((event->events & EPOLLOUT) && move_from(end->other) < 0) return close_both(end);
    if ((event->events & (EPOLLIN | EPOLLHUP)) && move_from(end) < 0) return close_both(end);
    await(end);
    await(end->other);
}

static void prepare(struct end *end, int fd, struct end *other) {
    int ends[2];
    checked(pipe2(ends, O_NONBLOCK | O_CLOEXEC), "pipe2");
    fcntl(ends[1], F_SETPIPE_SZ, PIPE); // a smaller pipe works, too
    *end = (struct end){.fd = fd, .other = other, .pipe_in = ends[1], .pipe_out = ends[0]};
    watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, end);
}

static void take(int listener, const struct sockaddr_in *upstream, const struct sockaddr_in *source) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        no_delay(fd);
        struct end *pair = calloc(2, sizeof *pair);
        prepare(&pair[0], fd, &pair[1]);
        prepare(&pair[1], connect_to(upstream, source), &pair[0]);
    }
}

int main(int count, char **words) {
    if (count < 3) return fprintf(stderr, "usage: splice LISTEN_IP:PORT UPSTREAM_IP:PORT [SOURCE_IP:0]\n");
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in upstream = address_of(words[2]), source = {0};
    if (count > 3) source = address_of(words[3]);
    int listener = listen_on(words[1]);
    epoll = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    struct epoll_event events[EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr) serve(&events[i]);
            else take(listener, &upstream, count > 3 ? &source : NULL);
        }
    }
}
