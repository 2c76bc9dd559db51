/* A load of UDP datagrams, in one thread.

   datagrams MODE PORT CLIENTS SIZE DEPTH SECONDS RATE

   MODE "echo" keeps DEPTH datagrams in flight on each of CLIENTS sockets; what is not answered within 100 ms is
   taken for lost and sent again. "to" sends as fast as the kernel takes them, by UDP_SEGMENT. "from" sends one
   datagram, and receives what comes back, joined by UDP_GRO. "flood" sends RATE datagrams a second, whether or
   not the server keeps up.

   "ready" is printed after the first answer (there is none in "to" and "flood"); a line of input starts the
   measurement, and the result is printed as a line of JSON. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { EVENTS = 256, RUN = 65000, BUFFER = 1 << 17, MOST = 1024 };

static const uint64_t LOST = 100000000;

static int sockets[MOST], flying[MOST], clients, depth, size;
static uint64_t heard[MOST], sent, received, lost;
static char data[BUFFER];

static int open_socket(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = 1 << 22;
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) fail("socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    return fd;
}

static void send_one(int i) {
    if (send(sockets[i], data, size, 0) != size) fail("send: %s", strerror(errno));
    flying[i]++;
    sent++;
}

/* Receive what is there, and send as many again; what was given up for lost may come after all. */
static void answer(int i) {
    uint64_t when = now();
    for (ssize_t got; (got = recv(sockets[i], data, sizeof data, MSG_DONTWAIT)) >= 0;) {
        if (got != size) fail("the server sent back %zd bytes for %d", got, size);
        heard[i] = when;
        received++;
        if (flying[i]) flying[i]--;
        if (flying[i] < depth) send_one(i);
    }
    if (errno != EAGAIN) fail("recv: %s", strerror(errno));
}

static void send_lost_again(uint64_t when) {
    for (int i = 0; i < clients; i++)
        if (when - heard[i] > LOST && flying[i]) {
            lost += flying[i];
            flying[i] = 0;
            heard[i] = when;
            for (int j = 0; j < depth; j++) send_one(i);
        }
}

static void echo(uint64_t end) {
    struct epoll_event events[EVENTS];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < clients; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(poller, EPOLL_CTL_ADD, sockets[i], &event);
        heard[i] = now();
        for (int j = 0; j < depth; j++) send_one(i);
    }
    while (now() < end) {
        int ready = epoll_wait(poller, events, EVENTS, 10);
        for (int i = 0; i < ready; i++) answer(events[i].data.u32);
        send_lost_again(now());
    }
}

static void bulk_to(uint64_t end) {
    int run = RUN / size * size;
    char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct iovec piece = {data, run};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = IPPROTO_UDP;
    header->cmsg_type = UDP_SEGMENT;
    header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    *(uint16_t *)CMSG_DATA(header) = size;
    while (now() < end) {
        if (sendmsg(sockets[0], &message, 0) < 0) fail("sendmsg: %s", strerror(errno));
        sent += run / size;
    }
}

static void bulk_from(uint64_t end) {
    int on = 1;
    struct timeval patience = {.tv_usec = 100000};
    setsockopt(sockets[0], IPPROTO_UDP, UDP_GRO, &on, sizeof on);
    setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    send_one(0);
    while (now() < end) {
        ssize_t got = recv(sockets[0], data, sizeof data, MSG_TRUNC);
        if (got > 0) received += got / size;
    }
    if (send(sockets[0], "", 0, 0)) fail("send: %s", strerror(errno));
}

static void flood(uint64_t end, double rate) {
    uint64_t start = now(), when;
    while ((when = now()) < end)
        while (sent * SECOND / rate < when - start) {
            if (send(sockets[sent % clients], data, size, 0) != size) fail("send: %s", strerror(errno));
            sent++;
        }
}

int main(int count, char **words) {
    if (count != 8) fail("7 arguments are needed");
    clients = atoi(words[3]);
    size = atoi(words[4]);
    depth = atoi(words[5]);
    if (clients > MOST || size < 1 || size > 60000) fail("too many clients, or too large");
    for (int i = 0; i < clients; i++) sockets[i] = open_socket(atoi(words[2]));
    prctl(PR_SET_TIMERSLACK, 1);
    int echoing = !strcmp(words[1], "echo");
    if (echoing) {
        struct timeval patience = {.tv_sec = 10};
        setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        send_one(0);
        if (recv(sockets[0], data, sizeof data, 0) != size) fail("the server does not answer");
        flying[0] = sent = 0;
    }
    puts("ready");
    fflush(stdout);
    char go;
    if (read(0, &go, 1) != 1) return 0;
    uint64_t start = now(), end = start + atof(words[6]) * SECOND;
    if (echoing) echo(end);
    else if (!strcmp(words[1], "to")) bulk_to(end);
    else if (!strcmp(words[1], "from")) bulk_from(end);
    else flood(end, atof(words[7]));
    printf("{\"sent\": %lu, \"received\": %lu, \"lost\": %lu, \"seconds\": %.9f}\n", sent, received, lost,
           (now() - start) / 1e9);
    return 0;
}
