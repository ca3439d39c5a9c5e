/* lookup NAME: the first address that getaddrinfo gives a program of this C library, which asks for both families as most
 * programs do, or why there is none. */
#include <netdb.h>
#include <stdio.h>

int main(int count, char **words)
{
    struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM }, *found;
    char text[64];
    int error = count == 2 ? getaddrinfo(words[1], 0, &hints, &found) : EAI_NONAME;
    if (!error)
        error = getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
    puts(error ? gai_strerror(error) : text);
    return 0;
}
