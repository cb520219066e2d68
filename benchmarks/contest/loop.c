/* loop COUNT PROGRAM FIFO: fork and exec so many times, then wait for ever: what starting them costs without anything. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    if (count != 4)
        return 2;
    for (int number = 0; number < atoi(arguments[1]); number++) {
        char text[12];
        snprintf(text, sizeof text, "%d", number);
        if (fork() == 0) {
            execl(arguments[2], arguments[2], arguments[3], text, (char *)0);
            _exit(127);
        }
    }
    for (;;)
        pause();
}
