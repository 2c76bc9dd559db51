/* An echo server with nothing between the sockets and epoll(7): the limit of what a server in one thread reaches.

   Prints its port, and ends when its standard input does. */

#define _GNU_SOURCE
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

enum { EVENTS = 64, BACKLOG = 4096, SIZE = 65536 };

static int poller, listening;
static char buffer[SIZE];

static void check(int result, const char *call) {
    if (result >= 0) return;
    fprintf(stderr, "%s: %s\n", call, strerror(errno));
    exit(1);
}

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    check(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

static void listen_and_print(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int on = 1;
    listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    check(listening, "socket");
    setsockopt(listening, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* accepted sockets inherit it */
    check(bind(listening, (struct sockaddr *)&address, length), "bind");
    check(listen(listening, BACKLOG), "listen");
    check(getsockname(listening, (struct sockaddr *)&address, &length), "getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

/* Send what was received; a full socket is tried again at once, because this server does nothing else. */
static int send_all(int fd, ssize_t length) {
    for (ssize_t sent = 0; sent < length;) {
        ssize_t done = send(fd, buffer + sent, length - sent, MSG_NOSIGNAL);
        if (done < 0 && errno != EAGAIN) return -1;
        if (done > 0) sent += done;
    }
    return 0;
}

static void echo(int fd) {
    ssize_t got = recv(fd, buffer, SIZE, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0 || send_all(fd, got)) close(fd);
}

int main(void) {
    struct epoll_event events[EVENTS];
    poller = epoll_create1(EPOLL_CLOEXEC);
    check(poller, "epoll_create1");
    listen_and_print();
    watch(listening);
    watch(0);
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR) check(ready, "epoll_wait");
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) return 0;
            if (fd != listening) {
                echo(fd);
                continue;
            }
            int client = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (client >= 0) watch(client);
        }
    }
}
