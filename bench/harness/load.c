/* A load for an echo server, in one thread on epoll(7).

   load PORT CONNECTIONS SIZE DEPTH SECONDS RATE MODE TLS

   MODE "echo" keeps DEPTH messages in flight on each connection (closed loop; RATE 0), or sends RATE messages a
   second on all of them together, whether or not the server keeps up (open loop). MODE "churn" keeps CONNECTIONS
   of them in the cycle connect, send, receive, close. TLS is "0", "1.2" or "1.3".

   Standard input: the message and its answer, SIZE bytes each. After every connection has had one right answer
   "ready" is printed; a line of input starts the measurement, and the result is printed as a line of JSON. Answers
   after the end are waited for; in the closed loop they are counted in `answered` alone.
   Latencies, in nanoseconds, begin when a message was to be sent, not when it could be: a server that stalls
   delays all messages that were due meanwhile (no coordinated omission). They are counted in log-linear buckets
   of three significant digits, as HdrHistogram has them. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"
#ifdef TLS
#include <openssl/ssl.h>
#endif

enum { EVENTS = 1024, READ = 1 << 18, WRITE = 1 << 16, PER_SOURCE = 8192, HALF = 1024, BUCKETS = 40 };

static const uint64_t PATIENCE = 10 * (uint64_t)1000000000, SPIN = 100000;

struct connection {
    int fd;
    int waits;        /* for EPOLLOUT */
    size_t received;  /* bytes of the answer that is coming */
    size_t sent;      /* bytes of the message that is going */
    uint64_t unsent;  /* bytes that are due and not sent */
    uint64_t *due;    /* a ring of the times at which messages without an answer were to be sent */
    size_t first, waiting, room;
#ifdef TLS
    SSL *ssl;
#endif
};

static struct connection *connections;
static int port, number, poller, churning, open_loop;
static size_t size, repeated;
static char *message, *answer, input[READ];
static uint64_t counts[BUCKETS * HALF + HALF], messages, answered, sources;
#ifdef TLS
static SSL_CTX *context;
#endif

static int bucket_of(uint64_t value) {
    int shift = value < 2 * HALF ? 0 : 64 - __builtin_clzll(value) - 11;
    if (shift >= BUCKETS) return BUCKETS * HALF + HALF - 1;
    return shift * HALF + (value >> shift);
}

static uint64_t middle_of(int bucket) {
    int shift = bucket < 2 * HALF ? 0 : bucket / HALF - 1;
    return ((uint64_t)(bucket - shift * HALF) << shift) + ((uint64_t)1 << shift) / 2;
}

static ssize_t get(struct connection *c, void *into, size_t most) {
#ifdef TLS
    if (c->ssl) {
        int got = SSL_read(c->ssl, into, most);
        if (got > 0) return got;
        int error = SSL_get_error(c->ssl, got);
        errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
        return error == SSL_ERROR_ZERO_RETURN ? 0 : -1;
    }
#endif
    return recv(c->fd, into, most, 0);
}

static ssize_t put(struct connection *c, const void *from, size_t length) {
#ifdef TLS
    if (c->ssl) {
        int put = SSL_write(c->ssl, from, length);
        if (put > 0) return put;
        int error = SSL_get_error(c->ssl, put);
        errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
        return -1;
    }
#endif
    return send(c->fd, from, length, MSG_NOSIGNAL);
}

static void watch(struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

/* Connect, from an address of the loopback net that has free ports. */
static void open_connection(struct connection *c) {
    uint64_t source = sources++ / PER_SOURCE + getpid() * 16;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(port)};
    from.sin_addr.s_addr = htonl(0x7f100000 | (source % 0xeffff + 1));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct timeval patience = {.tv_sec = PATIENCE / SECOND};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) fail("bind: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) fail("connect: %s", strerror(errno));
#ifdef TLS
    if (context) {
        c->ssl = SSL_new(context);
        SSL_set_fd(c->ssl, c->fd);
        SSL_set_tlsext_host_name(c->ssl, "localhost");
        if (SSL_connect(c->ssl) != 1) fail("the TLS handshake failed");
    }
#endif
}

static void set_nonblocking(int fd) {
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* Send a message, or as much of it as the buffers of both sides have room for; return how much. */
static size_t send_first(struct connection *c, size_t from) {
    size_t part = size - from < WRITE ? size - from : WRITE;
    if (put(c, message + from, part) != (ssize_t)part) fail("the server closed the connection");
    return from + part;
}

/* Receive the answer to it, and compare each of its bytes. */
static void verify(struct connection *c, size_t sent) {
    char *got = malloc(size);
    for (size_t received = 0; received < size;) {
        if (sent < size && sent - received <= WRITE) sent = send_first(c, sent);
        ssize_t more = get(c, got + received, size - received);
        if (more < 0) fail("the server does not answer: %s", strerror(errno));
        if (!more) fail("the server closed the connection");
        received += more;
    }
    if (memcmp(got, answer, size)) fail("the server did not answer what it should");
    free(got);
}

static void flush(struct connection *c) {
    while (c->unsent) {
        size_t part = repeated - c->sent < c->unsent ? repeated - c->sent : c->unsent;
        ssize_t done = put(c, message + c->sent, part);
        if (done < 0 && errno == EAGAIN) {
            if (!c->waits) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            c->waits = 1;
            return;
        }
        if (done <= 0) fail("the server closed a connection");
        c->unsent -= done;
        c->sent = (c->sent + done) % size;
    }
    if (c->waits) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->waits = 0;
}

/* A message is to be sent at this time. */
static void owe(struct connection *c, uint64_t when) {
    if (c->waiting == c->room) {
        size_t room = c->room ? c->room * 2 : 16;
        uint64_t *due = malloc(room * sizeof *due);
        for (size_t i = 0; i < c->waiting; i++) due[i] = c->due[(c->first + i) % c->room];
        free(c->due);
        c->due = due;
        c->room = room;
        c->first = 0;
    }
    c->due[(c->first + c->waiting++) % c->room] = when;
    c->unsent += size;
}

static void answer_came(struct connection *c, uint64_t when, uint64_t end) {
    c->received -= size;
    answered++;
    if (when < end || open_loop) { /* a message that was due is counted, however late */
        messages++;
        counts[bucket_of(when - c->due[c->first])]++;
    }
    c->first = (c->first + 1) % c->room;
    c->waiting--;
}

static void begin_cycle(struct connection *c) {
    c->first = c->waiting = c->received = c->sent = 0;
    owe(c, now());
    open_connection(c);
    set_nonblocking(c->fd);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    flush(c);
}

static void end_cycle(struct connection *c) {
    close(c->fd);
    c->unsent = c->waits = 0;
}

static int more_is_decrypted(struct connection *c) {
#ifdef TLS
    return c->ssl && SSL_pending(c->ssl);
#else
    (void)c;
    return 0;
#endif
}

/* Receive; in the closed loop send as many messages again, until `end`. */
static void receive(struct connection *c, uint64_t end, int closed_loop) {
    do {
        ssize_t got = get(c, input, sizeof input);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) fail("the server closed a connection");
        c->received += got;
        uint64_t when = now();
        if (c->received / size > c->waiting) fail("the server answered too much");
        while (c->received >= size) {
            answer_came(c, when, end);
            if (closed_loop && when < end) owe(c, when);
        }
        if (churning && !c->waiting) {
            end_cycle(c);
            if (when < end) begin_cycle(c);
            return;
        }
        flush(c);
    } while (more_is_decrypted(c));
}

static uint64_t outstanding(void) {
    uint64_t all = 0;
    for (int i = 0; i < number; i++) all += connections[i].waiting;
    return all;
}

/* Wait for events until `due`, the last part of it busily, because a sleep ends late. */
static int wait_for(struct epoll_event *events, uint64_t due) {
    uint64_t when = now(), left = !due ? PATIENCE : due <= when + SPIN ? 0 : due - when - SPIN;
    struct timespec timeout = {left / SECOND, left % SECOND};
    int ready = syscall(SYS_epoll_pwait2, poller, events, EVENTS, &timeout, NULL, 0);
    if (ready < 0 && errno == ENOSYS) ready = epoll_wait(poller, events, EVENTS, left / 1000000);
    if (ready < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    if (!ready && !due) fail("the server stopped answering");
    return ready < 0 ? 0 : ready;
}

static void handle(struct epoll_event *events, int ready, uint64_t end, int closed_loop) {
    for (int i = 0; i < ready; i++) {
        struct connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) flush(c);
        if (events[i].events & ~EPOLLOUT) receive(c, end, closed_loop);
    }
}

/* Run, then wait for the answers that are missing; return the nanoseconds that it ran. */
static uint64_t run(int depth, double seconds, double rate) {
    static struct epoll_event events[EVENTS];
    uint64_t start = now(), end = start + seconds * SECOND, sent = 0, when;
    for (int i = 0; i < number; i++) {
        if (churning) begin_cycle(&connections[i]);
        for (int j = 0; j < depth && !rate && !churning; j++) owe(&connections[i], start);
        if (!churning) flush(&connections[i]);
    }
    for (;;) {
        uint64_t due = rate ? start + sent * (SECOND / rate) : 0;
        when = now();
        if (when >= end && (!rate || due >= end)) break;
        while (rate && due < end && due <= when) {
            struct connection *c = &connections[sent++ % number];
            owe(c, due);
            if (!c->waits) flush(c);
            due = start + sent * (SECOND / rate);
        }
        if (due > end) due = end;
        handle(events, wait_for(events, due), end, !rate && !churning);
    }
    while (outstanding()) handle(events, wait_for(events, 0), end, 0);
    return when - start;
}

static void read_fully(char *into, size_t length) {
    for (size_t got = 0; got < length;) {
        ssize_t more = read(0, into + got, length - got);
        if (more <= 0) fail("the message is missing on standard input");
        got += more;
    }
}

/* The message, repeated so that one write takes as many as are due. */
static void read_messages(void) {
    repeated = (size > WRITE ? 1 : WRITE / size) * size;
    message = malloc(repeated);
    answer = malloc(size);
    read_fully(message, size);
    read_fully(answer, size);
    for (size_t at = size; at < repeated; at += size) memcpy(message + at, message, size);
}

static void set_up_tls(const char *version) {
    if (!strcmp(version, "0")) return;
#ifdef TLS
    int number = strcmp(version, "1.2") ? TLS1_3_VERSION : TLS1_2_VERSION;
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, number);
    SSL_CTX_set_max_proto_version(context, number);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
#else
    fail("compiled without OpenSSL");
#endif
}

/* The time in which this process was ready to run and another had its core. */
static uint64_t kept_waiting(void) {
    unsigned long long ran = 0, waited = 0;
    FILE *file = fopen("/proc/self/schedstat", "r");
    if (!file) return 0;
    if (fscanf(file, "%llu %llu", &ran, &waited) != 2) waited = 0;
    fclose(file);
    return waited;
}

static void print_result(uint64_t took, uint64_t waited) {
    printf("{\"messages\": %lu, \"answered\": %lu, \"seconds\": %.9f, \"waited_seconds\": %.9f, \"latencies\": [",
           messages, answered, took / 1e9, waited / 1e9);
    const char *between = "";
    for (int i = 0; i < BUCKETS * HALF + HALF; i++)
        if (counts[i]) {
            printf("%s[%lu, %lu]", between, middle_of(i), counts[i]);
            between = ", ";
        }
    puts("]}");
}

int main(int count, char **words) {
    if (count != 9) fail("8 arguments are needed");
    port = atoi(words[1]);
    number = atoi(words[2]);
    size = atoi(words[3]);
    churning = !strcmp(words[7], "churn");
    open_loop = atof(words[6]) > 0;
    set_up_tls(words[8]);
    prctl(PR_SET_TIMERSLACK, 1);
    read_messages();
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(number, sizeof *connections);
    size_t sent = 0;
    for (int i = 0; i < number; i++) {
        open_connection(&connections[i]);
        sent = send_first(&connections[i], 0);
    }
    for (int i = 0; i < number; i++) {
        struct connection *c = &connections[i];
        verify(c, sent);
        if (churning) {
            end_cycle(c);
        } else {
            set_nonblocking(c->fd);
            watch(c, EPOLL_CTL_ADD, EPOLLIN);
        }
    }
    puts("ready");
    fflush(stdout);
    char go;
    read_fully(&go, 1);
    uint64_t waited = kept_waiting(), took = run(atoi(words[4]), atof(words[5]), atof(words[6]));
    print_result(took, kept_waiting() - waited);
    return 0;
}
