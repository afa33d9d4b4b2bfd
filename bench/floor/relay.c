// The floor: what any user-space proxy on kernel TCP pays. Two reads and two writes per request, nothing is looked at.
// In:     relay LISTEN_IP:PORT UPSTREAM_IP:PORT [SOURCE_IP]; one upstream connection per accepted one.
// Limits: one thread, one shared buffer of BUFFER bytes; what a socket does not take is kept and reading pauses.
#define _GNU_SOURCE
#include "net.h"

enum { BUFFER = 16 * 1024 };

struct end {
    int fd;
    struct end *other;
    char *kept;          // bytes for this end that its socket did not take
    size_t length, sent; // of `kept`
};

static int epoll;
static char buffer[BUFFER];

static void close_both(struct end *end) {
    struct end *other = end->other;
    close(end->fd);
    close(other->fd);
    end->fd = other->fd = -1; // events of this turn may still name them: the memory stays
}

static void await(struct end *end) {
    unsigned events = (end->other->kept ? 0 : EPOLLIN) | (end->kept ? EPOLLOUT : 0);
    watch(epoll, EPOLL_CTL_MOD, end->fd, events, end);
}

static int keep(struct end *to, const char *bytes, size_t length) {
    to->kept = malloc(length);
    memcpy(to->kept, bytes, length);
    to->length = length;
    to->sent = 0;
    await(to);
    await(to->other);
    return 0;
}

static int move_from(struct end *from) {
    struct end *to = from->other;
    if (to->kept) return 0;
    ssize_t got = read(from->fd, buffer, BUFFER);
    if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
    ssize_t put = write(to->fd, buffer, (size_t)got);
    if (put < 0 && errno != EAGAIN && errno != ENOTCONN) return -1;
    if (put < 0) put = 0;
    return put < got ? keep(to, buffer + put, (size_t)(got - put)) : 0;
}

static int send_kept(struct end *to) {
    if (!to->kept) return 0;
    ssize_t put = write(to->fd, to->kept + to->sent, to->length - to->sent);
    if (put < 0) return errno == EAGAIN ? 0 : -1;
    to->sent += (size_t)put;
    if (to->sent < to->length) return 0;
    free(to->kept);
    to->kept = NULL;
    await(to);
    await(to->other);
    return 0;
}

static void take(int listener, const struct sockaddr_in *upstream, const struct sockaddr_in *source) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        no_delay(fd);
        struct end *pair = calloc(2, sizeof *pair);
        pair[0] = (struct end){.fd = fd, .other = &pair[1]};
        pair[1] = (struct end){.fd = connect_to(upstream, source), .other = &pair[0]};
        watch(epoll, EPOLL_CTL_ADD, pair[0].fd, EPOLLIN, &pair[0]);
        watch(epoll, EPOLL_CTL_ADD, pair[1].fd, EPOLLIN, &pair[1]);
    }
}

static void serve(const struct epoll_event *event) {
    struct end *end = event->data.ptr;
    if (end->fd >= 0 && (event->events & EPOLLOUT) && send_kept(end) < 0) close_both(end);
    if (end->fd >= 0 && (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && move_from(end) < 0) close_both(end);
}

int main(int count, char **words) {
    if (count < 3) return fprintf(stderr, "usage: relay LISTEN_IP:PORT UPSTREAM_IP:PORT [SOURCE_IP:0]\n");
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
