// Loaded before the C library: randomness by the seed in MHUB_SIM_SEED instead of the system's.
// (Splitmix64, by Sebastiano Vigna.)
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

static uint64_t state;
static int begun;

ssize_t getrandom(void *buffer, size_t length, unsigned int flags) {
    (void)flags;
    if (!begun) {
        const char *seed = getenv("MHUB_SIM_SEED");
        state = seed ? strtoull(seed, NULL, 10) : 0;
        begun = 1;
    }
    unsigned char *bytes = buffer;
    for (size_t at = 0; at < length; at++) {
        uint64_t mixed = (state += 0x9e3779b97f4a7c15);
        mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
        mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
        bytes[at] = (unsigned char)(mixed ^ (mixed >> 31));
    }
    return (ssize_t)length;
}

int getentropy(void *buffer, size_t length) {
    getrandom(buffer, length, 0);
    return 0;
}
