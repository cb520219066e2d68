/* A program with a test suite whose certificate has run out: what people who rebuild old software meet. */
#include <stdio.h>

int main(void)
{
    puts("built " __DATE__);
    return 0;
}
