// N keep-alive connections, each with one request in flight: a closed loop that warms up, waits to be told, and measures.
// In:     load IP:PORT HOST CONNECTIONS WARM_MS RUN_MS [fresh | rate N] on the command line; a line on stdin starts the measured
//         part. With `fresh`, every request has a connection of its own, closed by this side once it is answered. With `rate`,
//         N requests a second are due whatever became of earlier ones; a latency counts from when its request was due.
// Out:    "ready" once warm and every answer is in (all connections are idle then); after the run one JSON line.
// Limits: answers carry content-length and lie within HEAD bytes of head; latencies above 100 ms count as 100 ms.
// Fails:  a closed connection or another status than 200 is an error, counted and printed; such a run is no figure.
#define _GNU_SOURCE
#include "net.h"
#include <time.h>

enum { BUFFER = 64 * 1024, HEAD = 4096, SLOTS = 100001 };

struct connection {
    int fd;
    long left;      // body bytes still to come; -1 while in the head
    size_t have;    // head bytes so far
    int busy;       // its answer is awaited
    long started_us;
    char head[HEAD];
};

static char request[512];
static size_t request_length;
static unsigned latency[SLOTS]; // by microsecond
static long answered, errors;
static int in_flight, epoll, fresh;
static long rate; // requests due a second; 0: a closed loop
static struct sockaddr_in target;

static long now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

static void ask(struct connection *to, long due_us) {
    to->left = -1;
    to->have = 0;
    to->busy = 1;
    to->started_us = due_us;
    if (write(to->fd, request, request_length) == (ssize_t)request_length) in_flight++;
    else errors++;
}

static void fail(struct connection *of) {
    errors++;
    in_flight--;
    close(of->fd);
    of->fd = -1;
}

// Reads the head once it is whole: how many body bytes follow it, or -1 for something else than 200 with a length.
static long body_length(const char *head) {
    const char *length = strcasestr(head, "\r\ncontent-length:");
    return strncmp(head, "HTTP/1.1 200", 12) == 0 && length ? atol(length + 17) : -1;
}

// Takes bytes of an answer: 1 when it is complete, 0 when more must come, -1 when it is wrong.
static int take(struct connection *of, const char *bytes, size_t length) {
    if (of->left < 0) {
        size_t room = HEAD - 1 - of->have, part = length < room ? length : room;
        memcpy(of->head + of->have, bytes, part);
        of->head[of->have + part] = 0;
        char *end = strstr(of->head, "\r\n\r\n");
        if (!end) {
            of->have += part;
            return of->have >= HEAD - 1 ? -1 : 0;
        }
        size_t used = (size_t)(end + 4 - of->head) - of->have;
        of->left = body_length(of->head);
        if (of->left < 0) return -1;
        length -= used;
    }
    of->left -= (long)length;
    return of->left < 0 ? -1 : of->left == 0;
}

static void note(const struct connection *of, long now) {
    long took = now - of->started_us;
    latency[took < SLOTS ? took : SLOTS - 1]++;
    answered++;
    in_flight--;
}

static void open_one(struct connection *of) {
    of->fd = checked(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    no_delay(of->fd);
    checked(connect(of->fd, (struct sockaddr *)&target, sizeof target), "connect");
    watch(epoll, EPOLL_CTL_ADD, of->fd, EPOLLIN, of);
}

static void serve(struct connection *of, int again) {
    static char buffer[BUFFER];
    if (of->fd < 0) return;
    ssize_t got = read(of->fd, buffer, BUFFER);
    if (got < 0 && errno == EAGAIN) return;
    int done = got > 0 ? take(of, buffer, (size_t)got) : -1;
    if (done < 0) return fail(of);
    if (done == 0) return;
    note(of, now_us());
    of->busy = 0;
    if (fresh) {
        close(of->fd);
        open_one(of);
    }
    if (again) ask(of, now_us());
}

// Keeps every connection busy until the time is over, then takes in the last answers.
static void run(struct connection *all, int count, long milliseconds) {
    long end = now_us() + milliseconds * 1000;
    int again = milliseconds > 0;
    for (int i = 0; i < count; i++) {
        if (all[i].fd >= 0) ask(&all[i], now_us());
    }
    struct epoll_event events[EVENTS];
    while (in_flight > 0 && now_us() < end + 5000000) {
        int ready = epoll_wait(epoll, events, EVENTS, 1000);
        again = again && now_us() < end;
        for (int i = 0; i < ready; i++) serve(events[i].data.ptr, again);
    }
    errors += in_flight; // what never came
}

static struct connection *idle_one(struct connection *all, int count) {
    static int next;
    for (int i = 0; i < count; i++) {
        struct connection *one = &all[next++ % count];
        if (one->fd >= 0 && !one->busy) return one;
    }
    return NULL;
}

// Asks whenever a request is due and a connection is free; one that finds none free is late, and its latency says so.
static void run_at_rate(struct connection *all, int count, long milliseconds) {
    long start = now_us(), end = start + milliseconds * 1000, asked = 0;
    struct epoll_event events[EVENTS];
    while (now_us() < end || (in_flight > 0 && now_us() < end + 5000000)) {
        struct connection *idle;
        long due = start + asked * 1000000 / rate;
        while (due <= now_us() && due < end && (idle = idle_one(all, count))) {
            ask(idle, due);
            due = start + ++asked * 1000000 / rate;
        }
        long wait_us = due - now_us();
        struct timespec wait = {.tv_nsec = wait_us > 0 && due < end ? (wait_us % 1000000) * 1000 : 1000000};
        int ready = epoll_pwait2(epoll, events, EVENTS, &wait, NULL);
        for (int i = 0; i < ready; i++) serve(events[i].data.ptr, 0);
    }
    errors += in_flight;
}

static struct connection *open_all(int count) {
    struct connection *all = calloc((size_t)count, sizeof *all);
    for (int i = 0; i < count; i++) open_one(&all[i]);
    return all;
}

static long quantile(double part) {
    double passed = 0;
    for (long us = 0; us < SLOTS; us++) {
        passed += latency[us];
        if (passed >= part * (double)answered) return us;
    }
    return SLOTS;
}

int main(int count, char **words) {
    if (count < 6) return fprintf(stderr, "usage: load IP:PORT HOST CONNECTIONS WARM_MS RUN_MS [fresh | rate N]\n");
    fresh = count == 7;
    rate = count > 7 ? atol(words[7]) : 0;
    target = address_of(words[1]);
    int connections = atoi(words[3]);
    epoll = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    request_length = (size_t)snprintf(request, sizeof request,
        "GET /item/42?view=full HTTP/1.1\r\nhost: %s\r\nuser-agent: floor\r\naccept: */*\r\n\r\n", words[2]);
    struct connection *all = open_all(connections);
    run(all, connections, atol(words[4]));
    printf("ready\n");
    fflush(stdout);
    if (getchar() == EOF) return 0;
    memset(latency, 0, sizeof latency);
    answered = 0;
    long start = now_us();
    if (rate) run_at_rate(all, connections, atol(words[5]));
    else run(all, connections, atol(words[5]));
    double seconds = (double)(now_us() - start) / 1e6;
    printf("{\"requests\": %ld, \"errors\": %ld, \"seconds\": %.4f, \"p50_us\": %ld, \"p90_us\": %ld, \"p99_us\": %ld}\n",
        answered, errors, seconds, quantile(0.5), quantile(0.9), quantile(0.99));
}
