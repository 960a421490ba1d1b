/* The compiler of llama.cpp reads this first. GCC 12 says that ldtilecfg reads 8 bytes of the 64 that configure the tiles
   of AMX, and then drops the stores of the others: llama.cpp ends with an illegal instruction. */
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
