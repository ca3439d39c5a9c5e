/* lookup NAME...: what getaddrinfo of the C library it is linked with says, a line a name.
   Built against musl, whose resolver differs from glibc's: it asks all servers at once, asks A and
   AAAA together, and takes NXDOMAIN for one of them as the end of both. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static int lookup(const char *name, int family) {
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM}, *found, *a;
    int failure = getaddrinfo(name, NULL, &hints, &found);
    if (failure) {
        printf("%s: %s\n", name, gai_strerror(failure));
        return 1;
    }
    for (a = found; a; a = a->ai_next) {
        char text[INET6_ADDRSTRLEN];
        const void *address = a->ai_family == AF_INET6
            ? (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr
            : (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr;
        printf("%s %s\n", name, inet_ntop(a->ai_family, address, text, sizeof text));
    }
    freeaddrinfo(found);
    return 0;
}

int main(int argc, char **argv) {
    int failed = 0, family = AF_UNSPEC;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-4")) family = AF_INET;
        else if (!strcmp(argv[i], "-6")) family = AF_INET6;
        else failed |= lookup(argv[i], family);
    }
    return failed;
}
