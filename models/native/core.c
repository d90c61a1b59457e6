/* SM3 (GB/T 32905-2016) of many messages at once: one message a lane of a vector register.
 *
 * Plain C and the vector extensions of GCC and Clang; no library, no allocation, no branch on a
 * message's bytes. Every width is compiled in, the widest that the processor has is taken. The caller
 * owns all memory. What it states of the memory is checked as far as it can be: a message that would
 * lie outside its buffer is refused before anything is read.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC __attribute__((visibility("default")))
#endif

enum { DIGEST = 32, BLOCK = 64, MAX_FRONT = 63, MAX_LANES = 16 };

static const uint32_t START[8] = {0x7380166f, 0x4914b2b9, 0x172442d7, 0xda8a0600,
                                  0xa96f30bc, 0x163138aa, 0xe38dee4d, 0xb0fb0e4e};

static inline uint32_t load32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline void store32(uint8_t *at, uint32_t word) {
    at[0] = (uint8_t)(word >> 24);
    at[1] = (uint8_t)(word >> 16);
    at[2] = (uint8_t)(word >> 8);
    at[3] = (uint8_t)word;
}

/* --- one block of every lane ------------------------------------------------------------------ */

#define ROTL(x, n) ((x) << ((n) & 31) | (x) >> (-(n) & 31))
#define P0(x) ((x) ^ ROTL(x, 9) ^ ROTL(x, 17))
#define P1(x) ((x) ^ ROTL(x, 15) ^ ROTL(x, 23))
#define EITHER(x, y, z) ((x) ^ (y) ^ (z))
#define MOST(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))
#define CHOOSE(x, y, z) (((x) & ((y) ^ (z))) ^ (z))
#define T_LOW 0x79cc4519u
#define T_HIGH 0x7a879d8au

#define ROUND(FF, GG, T, j)                                                                        \
    do {                                                                                           \
        const WORD turned = ROTL(a, 12);                                                           \
        const WORD ss1_sum = turned + e + (uint32_t)ROTL((uint32_t)(T), (j) % 32);                 \
        const WORD ss1 = ROTL(ss1_sum, 7);                                                         \
        const WORD tt1 = FF(a, b, c) + d + (ss1 ^ turned) + (w[(j) % 16] ^ w[((j) + 4) % 16]);     \
        const WORD tt2 = GG(e, f, g) + h + ss1 + w[(j) % 16];                                      \
        d = c;                                                                                     \
        c = ROTL(b, 9);                                                                            \
        b = a;                                                                                     \
        a = tt1;                                                                                   \
        h = g;                                                                                     \
        g = ROTL(f, 19);                                                                           \
        f = e;                                                                                     \
        e = P0(tt2);                                                                               \
    } while (0)

/* The word j + 16 of the expanded message takes the place of word j, once round j is done with it. */
#define EXPAND(j)                                                                                  \
    do {                                                                                           \
        const WORD mixed = w[(j) % 16] ^ w[((j) + 7) % 16] ^ ROTL(w[((j) + 13) % 16], 15);         \
        w[(j) % 16] = P1(mixed) ^ ROTL(w[((j) + 3) % 16], 7) ^ w[((j) + 10) % 16];                 \
    } while (0)

#define FIRST(j) ROUND(EITHER, EITHER, T_LOW, j); EXPAND(j)
#define LATER(j) ROUND(MOST, CHOOSE, T_HIGH, j); EXPAND(j)
#define FINAL(j) ROUND(MOST, CHOOSE, T_HIGH, j)
#define FOUR(STEP, j) STEP(j); STEP((j) + 1); STEP((j) + 2); STEP((j) + 3)

#define COMPRESS(NAME, WORD_TYPE, LANES, TARGET)                                                   \
    typedef WORD_TYPE NAME##_word;                                                                 \
    TARGET static void NAME(uint32_t state[8][MAX_LANES], const uint8_t *const block[MAX_LANES]) { \
        typedef NAME##_word WORD;                                                                  \
        uint32_t words[16][LANES] __attribute__((aligned(64)));                                    \
        for (int lane = 0; lane < LANES; lane++)                                                   \
            for (int k = 0; k < 16; k++) words[k][lane] = load32(block[lane] + 4 * k);             \
        WORD w[16], a, b, c, d, e, f, g, h;                                                        \
        memcpy(w, words, sizeof w);                                                                \
        memcpy(&a, state[0], sizeof a);                                                            \
        memcpy(&b, state[1], sizeof a);                                                            \
        memcpy(&c, state[2], sizeof a);                                                            \
        memcpy(&d, state[3], sizeof a);                                                            \
        memcpy(&e, state[4], sizeof a);                                                            \
        memcpy(&f, state[5], sizeof a);                                                            \
        memcpy(&g, state[6], sizeof a);                                                            \
        memcpy(&h, state[7], sizeof a);                                                            \
        const WORD was[8] = {a, b, c, d, e, f, g, h};                                              \
        FOUR(FIRST, 0); FOUR(FIRST, 4);                                                            \
        FOUR(FIRST, 8); FOUR(FIRST, 12);                                                           \
        FOUR(LATER, 16); FOUR(LATER, 20);                                                          \
        FOUR(LATER, 24); FOUR(LATER, 28);                                                          \
        FOUR(LATER, 32); FOUR(LATER, 36);                                                          \
        FOUR(LATER, 40); FOUR(LATER, 44);                                                          \
        FOUR(LATER, 48); FOUR(FINAL, 52);                                                          \
        FOUR(FINAL, 56); FOUR(FINAL, 60);                                                          \
        const WORD now[8] = {a, b, c, d, e, f, g, h};                                              \
        for (int k = 0; k < 8; k++) {                                                              \
            const WORD mixed = was[k] ^ now[k];                                                    \
            memcpy(state[k], &mixed, sizeof mixed);                                                \
        }                                                                                          \
    }

typedef uint32_t word4 __attribute__((vector_size(16)));
typedef uint32_t word8 __attribute__((vector_size(32)));
typedef uint32_t word16 __attribute__((vector_size(64)));

COMPRESS(compress1, uint32_t, 1, /* any processor */)
COMPRESS(compress4, word4, 4, /* any processor */)
#if defined(__x86_64__)
COMPRESS(compress8, word8, 8, __attribute__((target("avx2"))))
COMPRESS(compress16, word16, 16, __attribute__((target("avx512f"))))
#endif

typedef void (*Compress)(uint32_t state[8][MAX_LANES], const uint8_t *const block[MAX_LANES]);

/* --- which width this processor has ----------------------------------------------------------- */

#if defined(__x86_64__)
#include <cpuid.h>

static int find_widest(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 4;
    uint32_t kept, high;
    __asm__ volatile("xgetbv" : "=a"(kept), "=d"(high) : "c"(0)); /* what the system saves at a switch */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 4;
    if ((b & bit_AVX512F) && (kept & 0xe6) == 0xe6) return 16;
    if ((b & bit_AVX2) && (kept & 0x06) == 0x06) return 8;
    return 4;
}

static Compress compress_of(int lanes) {
    return lanes == 16 ? compress16 : lanes == 8 ? compress8 : lanes == 4 ? compress4 : compress1;
}
#else
static int find_widest(void) { return 4; }

static Compress compress_of(int lanes) { return lanes == 4 ? compress4 : compress1; }
#endif

/* Asked of the processor once: on a virtual machine the question is dear. */
static int widest(void) {
    static _Atomic int known;
    int found = atomic_load_explicit(&known, memory_order_relaxed);
    if (!found) atomic_store_explicit(&known, found = find_widest(), memory_order_relaxed);
    return found;
}

/* How many messages are hashed at once here: 4, 8 or 16. */
PUBLIC int cz_lanes(void) { return widest(); }

/* --- many messages ---------------------------------------------------------------------------- */

/* Message i is front || heads[i * head_size ..] || body[offsets[i] .. offsets[i + 1] - gap]. */
typedef struct {
    const uint8_t *front;
    size_t front_size;
    const uint8_t *heads;
    size_t head_size;
    const uint8_t *body;
    const uint32_t *offsets;
    uint32_t gap;
} Messages;

static inline uint32_t size_of(const Messages *all, size_t message) {
    return all->offsets[message + 1] - all->gap - all->offsets[message];
}

/* Whether every message lies within the body, and front and head within a first block. */
static int is_sound(const Messages *all, size_t body_size, size_t count) {
    if (all->front_size > MAX_FRONT || all->head_size > MAX_FRONT - all->front_size) return 0;
    for (size_t i = 0; i < count; i++) {
        const uint64_t end = all->offsets[i + 1];
        if ((uint64_t)all->offsets[i] + all->gap > end || end - all->gap > body_size) return 0;
    }
    return 1;
}

/* Where a lane stands in its message. */
typedef struct {
    size_t message;
    size_t next;   /* block to be hashed next */
    size_t blocks; /* 0: the lane is idle */
    uint8_t edge[BLOCK];
} Lane;

static void begin(Lane *lane, const Messages *all, size_t message, uint32_t state[8][MAX_LANES], int column) {
    lane->message = message;
    lane->next = 0;
    lane->blocks = (all->front_size + all->head_size + size_of(all, message) + 8) / BLOCK + 1;
    for (int k = 0; k < 8; k++) state[k][column] = START[k];
}

/* The next block of a lane: of the body itself where it lies there whole, else put together in `edge`. */
static const uint8_t *next_block(Lane *lane, const Messages *all) {
    const size_t first = all->front_size + all->head_size;
    const uint8_t *body = all->body + all->offsets[lane->message];
    const size_t size = size_of(all, lane->message);
    const size_t number = lane->next++;
    size_t filled = 0, from = 0;
    if (number == 0) {
        memcpy(lane->edge, all->front, all->front_size);
        if (all->head_size) memcpy(lane->edge + all->front_size, all->heads + lane->message * all->head_size, all->head_size);
        filled = first;
    } else {
        from = number * BLOCK - first;
        if (from < size && size - from >= BLOCK) return body + from;
    }
    /* `from` may lie behind the end: then only padding or only the length is left. */
    const size_t left = from < size ? size - from : 0;
    const size_t taken = left < BLOCK - filled ? left : BLOCK - filled;
    if (taken) memcpy(lane->edge + filled, body + from, taken);
    filled += taken;
    if (filled == BLOCK) return lane->edge;
    memset(lane->edge + filled, 0, BLOCK - filled);
    if (from <= size) lane->edge[filled] = 0x80;
    if (number + 1 == lane->blocks) {
        const uint64_t bits = (uint64_t)(first + size) * 8;
        store32(lane->edge + 56, (uint32_t)(bits >> 32));
        store32(lane->edge + 60, (uint32_t)bits);
    }
    return lane->edge;
}

static void finish(const uint32_t state[8][MAX_LANES], int column, uint8_t *out) {
    for (int k = 0; k < 8; k++) store32(out + 4 * k, state[k][column]);
}

static void hash_all(const Messages *all, size_t count, int lanes, uint8_t *out) {
    uint32_t state[8][MAX_LANES] __attribute__((aligned(64))) = {{0}};
    Lane lane[MAX_LANES];
    const uint8_t *block[MAX_LANES];
    if (count < 3) lanes = 1; /* two messages one after the other are faster than two lanes of many */
    const Compress compress = compress_of(lanes);
    size_t given = 0, done = 0;
    for (int i = 0; i < lanes; i++) {
        lane[i].blocks = 0;
        memset(lane[i].edge, 0, BLOCK);
        if (given < count) begin(&lane[i], all, given++, state, i);
    }
    while (done < count) {
        for (int i = 0; i < lanes; i++) block[i] = lane[i].blocks ? next_block(&lane[i], all) : lane[i].edge;
        compress(state, block);
        for (int i = 0; i < lanes; i++) {
            if (!lane[i].blocks || lane[i].next < lane[i].blocks) continue;
            finish((const uint32_t(*)[MAX_LANES])state, i, out + lane[i].message * DIGEST);
            done++;
            lane[i].blocks = 0;
            if (given < count) begin(&lane[i], all, given++, state, i);
        }
    }
}

/* SM3 of `count` messages into out[32 * count].
 *
 * `offsets` are count + 1, each part of the body ending `gap` bytes before the next begins; front_size +
 * head_size is at most 63; `lanes` is 1, 4, 8, 16 or 0 for the widest here. Returns 0; -1 if something
 * is out of range or there are no such lanes, and then nothing is written.
 */
PUBLIC int cz_hash_each(int lanes, const uint8_t *front, size_t front_size, const uint8_t *heads, size_t head_size,
                        const uint8_t *body, size_t body_size, const uint32_t *offsets, uint32_t gap, size_t count,
                        uint8_t *out) {
    const int most = widest();
    const Messages all = {front, front_size, heads, head_size, body, offsets, gap};
    if (lanes == 0) lanes = most;
    if (lanes > most || (lanes != 1 && lanes != 4 && lanes != 8 && lanes != 16)) return -1;
    if (!is_sound(&all, body_size, count)) return -1;
    hash_all(&all, count, lanes, out);
    return 0;
}

/* The same messages one behind the other, before each its length as u32 big-endian: what a flat is the hash of.
 *
 * Returns how many bytes were written; 0 if something is out of range or `room` is too small, and then nothing is.
 */
PUBLIC size_t cz_frame_each(const uint8_t *front, size_t front_size, const uint8_t *heads, size_t head_size,
                            const uint8_t *body, size_t body_size, const uint32_t *offsets, uint32_t gap, size_t count,
                            uint8_t *out, size_t room) {
    const Messages all = {front, front_size, heads, head_size, body, offsets, gap};
    if (!is_sound(&all, body_size, count)) return 0;
    const size_t first = front_size + head_size;
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        if (size_of(&all, i) > UINT32_MAX - first) return 0;
        total += 4 + first + size_of(&all, i);
    }
    if (total > room) return 0;
    uint8_t *at = out;
    for (size_t i = 0; i < count; i++) {
        const uint32_t size = size_of(&all, i);
        store32(at, (uint32_t)(first + size));
        at += 4;
        if (front_size) memcpy(at, front, front_size);
        at += front_size;
        if (head_size) memcpy(at, heads + i * head_size, head_size);
        at += head_size;
        if (size) memcpy(at, body + offsets[i], size);
        at += size;
    }
    return (size_t)total;
}

/* --- trees ------------------------------------------------------------------------------------ */

/* How many nodes are hashed by one set of offsets. */
enum { NODES = 256 };

/* The parents of `count` pairs of hashes, RFC 9162 2.1.1. `out` may be `level`: a parent never overtakes its children. */
static void parents(const uint8_t *level, size_t count, int lanes, uint8_t *out) {
    static const uint8_t node = 1;
    uint32_t offsets[NODES + 1];
    uint8_t made[NODES * DIGEST];
    for (uint32_t i = 0; i <= NODES; i++) offsets[i] = 2 * DIGEST * i;
    for (size_t from = 0; from < count; from += NODES) {
        const size_t some = count - from < NODES ? count - from : NODES;
        const Messages all = {&node, 1, NULL, 0, level + 2 * DIGEST * from, offsets, 0};
        hash_all(&all, some, lanes, made);
        memcpy(out + DIGEST * from, made, DIGEST * some);
    }
}

/* The parents of `count` pairs of hashes in level[64 * count], into out[32 * count]. */
PUBLIC void cz_parents(const uint8_t *level, size_t count, uint8_t *out) { parents(level, count, widest(), out); }

/* Every level of the tree over `count` >= 1 hashes, the leaves' left out, the root last: RFC 9162 2.1.1, a last
 * node without a sibling goes up as it is. `out` holds 32 * (sum over the levels) bytes; returns how many hashes that are.
 */
PUBLIC size_t cz_levels(const uint8_t *leaves, size_t count, uint8_t *out) {
    const int lanes = widest();
    const uint8_t *level = leaves;
    size_t total = 0;
    while (count > 1) {
        uint8_t *above = out + DIGEST * total;
        parents(level, count / 2, lanes, above);
        if (count & 1) memcpy(above + DIGEST * (count / 2), level + DIGEST * (count - 1), DIGEST);
        count = count / 2 + (count & 1);
        total += count;
        level = above;
    }
    return total;
}

/* The roots of many small trees into out[32 * trees]: the leaves are messages as for `cz_hash_each`, tree t has those of
 * bounds[t] .. bounds[t + 1]. `work` holds 32 * count bytes, `sizes` one number a tree. The nodes of a level of all trees
 * are hashed together. Returns 0; -1 if something is out of range or a tree is empty, and then `out` is as it was.
 */
PUBLIC int cz_roots(const uint8_t *front, size_t front_size, const uint8_t *body, size_t body_size, const uint32_t *offsets,
                    size_t count, const uint32_t *bounds, size_t trees, uint32_t *sizes, uint8_t *work, uint8_t *out) {
    static const uint8_t node = 1;
    const Messages leaves = {front, front_size, NULL, 0, body, offsets, 0};
    const int lanes = widest();
    if (!is_sound(&leaves, body_size, count)) return -1;
    if (trees && (bounds[0] != 0 || bounds[trees] != count)) return -1;
    for (size_t t = 0; t < trees; t++) {
        if (bounds[t] >= bounds[t + 1]) return -1;
        sizes[t] = bounds[t + 1] - bounds[t];
    }
    hash_all(&leaves, count, lanes, work);
    uint8_t pairs[NODES * 2 * DIGEST], made[NODES * DIGEST];
    uint32_t places[NODES], step[NODES + 1];
    for (uint32_t i = 0; i <= NODES; i++) step[i] = 2 * DIGEST * i;
    const Messages nodes = {&node, 1, NULL, 0, pairs, step, 0};
    for (int is_growing = 1; is_growing;) {
        size_t held = 0;
        is_growing = 0;
        for (size_t t = 0; t < trees; t++) {
            uint8_t *level = work + (size_t)DIGEST * bounds[t];
            const uint32_t size = sizes[t], half = size / 2;
            for (uint32_t i = 0; i < half; i++) {
                memcpy(pairs + 2 * DIGEST * held, level + (size_t)2 * DIGEST * i, 2 * DIGEST);
                places[held++] = bounds[t] + i; /* below what is still to be read: 2 * i and beyond */
                if (held == NODES) {
                    hash_all(&nodes, held, lanes, made);
                    for (size_t k = 0; k < held; k++) memcpy(work + (size_t)DIGEST * places[k], made + DIGEST * k, DIGEST);
                    held = 0;
                }
            }
            sizes[t] = half + (size & 1);
            is_growing |= sizes[t] > 1;
            /* An odd last one goes up once its place has been read; the pairs still held write below it. */
            if (size > 1 && (size & 1)) memmove(level + (size_t)DIGEST * half, level + (size_t)DIGEST * (size - 1), DIGEST);
        }
        hash_all(&nodes, held, lanes, made);
        for (size_t k = 0; k < held; k++) memcpy(work + (size_t)DIGEST * places[k], made + DIGEST * k, DIGEST);
    }
    for (size_t t = 0; t < trees; t++) memcpy(out + DIGEST * t, work + (size_t)DIGEST * bounds[t], DIGEST);
    return 0;
}
