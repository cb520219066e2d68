/* service FIFO NUMBER [PID-FILE]: note the monotonic clock as the first act, tell it, then wait for ever.
 *
 * One record goes into the FIFO, in one write(2) that is atomic because it is shorter than PIPE_BUF. With a PID file it
 * is a daemon of the old kind: it forks, the child notes the clock, writes its number, and the parent ends.
 *
 * service FIFO NUMBER flood LINES LENGTH: write that many numbered lines of so many bytes to stdout as fast as they are
 * taken, and tell the clock at the end of it again, as number -1.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct record {
    int64_t nanoseconds;
    int32_t pid, number;
};

static int64_t now(void)
{
    struct timespec clock;
    clock_gettime(CLOCK_MONOTONIC, &clock);
    return clock.tv_sec * 1000000000LL + clock.tv_nsec;
}

static void tell(const char *fifo, int64_t nanoseconds, int number)
{
    struct record record = {nanoseconds, getpid(), number};
    int file = open(fifo, O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, &record, sizeof record) != sizeof record)
        _exit(3);
    close(file);
}

static void flood(long lines, int length)
{
    enum { SIZE = 65536 };
    static char chunk[SIZE];
    int each = SIZE / length;
    for (long line = 0; line < lines;) {
        int count = lines - line < each ? (int)(lines - line) : each;
        for (int at = 0; at < count; at++) {
            char *begin = chunk + (long)at * length;
            memset(begin, 'x', length - 1);
            begin[length - 1] = '\n';
            char digits[13];
            snprintf(digits, sizeof digits, "%012ld", line + at);
            memcpy(begin, digits, 12);
        }
        for (long done = 0, size = (long)count * length; done < size;) {
            ssize_t written = write(1, chunk + done, size - done);
            if (written < 0)
                _exit(4);
            done += written;
        }
        line += count;
    }
}

int main(int count, char **arguments)
{
    int64_t begin = now();
    if (count < 3)
        return 2;
    int number = atoi(arguments[2]);
    if (count == 4) {
        if (fork() != 0)
            _exit(0);
        setsid();
        begin = now();
        tell(arguments[1], begin, number);
        FILE *file = fopen(arguments[3], "w");
        if (file == NULL || fprintf(file, "%d\n", getpid()) < 0 || fclose(file) != 0)
            return 5;
    } else {
        tell(arguments[1], begin, number);
    }
    if (count == 6) {
        flood(atol(arguments[4]), atoi(arguments[5]));
        tell(arguments[1], now(), -1);
    }
    for (;;)
        pause();
}
