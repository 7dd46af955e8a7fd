/* A correct _tile_loadconfig for GCC before 11.5, 12.4 and 13.3.
 *
 * Their own tells the compiler that it reads one pointer (8 bytes), where the instruction reads a
 * tile configuration of 64. The optimiser then drops the stores that fill the rest, LDTILECFG
 * meets a configuration that makes no sense, and the process dies with SIGSEGV: llama.cpp does,
 * at its first decode, on every processor with AMX.
 *
 * build/llama.py puts this file in front of every file it compiles, where the compiler is one of
 * those; it does nothing where the code is not compiled for AMX.
 *
 * Source: GCC bug 114098, fixed in the releases named above.
 */
#if defined(__x86_64__) && defined(__AMX_TILE__)
#include <immintrin.h>
struct fleet_tile_config { char bytes[64]; };
#undef _tile_loadconfig
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg\t%X0" :: "m"(*(const struct fleet_tile_config *)(config)))
#endif
