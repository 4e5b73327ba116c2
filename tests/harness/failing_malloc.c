/* Preloaded: malloc, calloc, realloc, mmap and mremap that fail when they are told to, on the thread
   that told them; and how many blocks are held. */

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

static __thread long until = -1;      /* allocations before the next failure; below 0: none fails */
static __thread long failures;        /* how many then fail, one after the other */
static long failed;
static long held;

static int fails(void)
{
    if (until < 0 || until-- > 0)
        return 0;
    failed++;
    until = --failures > 0 ? 0 : -1;
    errno = ENOMEM;
    return 1;
}

void failing_begin(long nth, long burst)
{
    failed = 0;
    failures = burst;
    until = nth;
}

long failing_end(void)
{
    until = -1;
    return failed;
}

long failing_held(void)
{
    return __atomic_load_n(&held, __ATOMIC_RELAXED);
}

static void *counted(void *block)
{
    if (block != NULL)
        __atomic_add_fetch(&held, 1, __ATOMIC_RELAXED);
    return block;
}

void *malloc(size_t size)
{
    return fails() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *block, size_t size)
{
    if (fails())
        return NULL;
    return block == NULL ? counted(__libc_malloc(size)) : __libc_realloc(block, size);
}

void free(void *block)
{
    if (block != NULL)
        __atomic_sub_fetch(&held, 1, __ATOMIC_RELAXED);
    __libc_free(block);
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset)
{
    if (fails())
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}

void *mremap(void *block, size_t size, size_t wanted, int flags, ...)
{
    if (fails())
        return MAP_FAILED;
    return (void *)syscall(SYS_mremap, block, size, wanted, flags);
}
