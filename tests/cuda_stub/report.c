/* The counters, and the report that counts.py reads. */
#define _GNU_SOURCE /* for a recursive mutex that needs no initialization */
#include "stub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

char stub_lock(void)
{
    return (char)pthread_mutex_lock(&mutex);
}

void stub_unlock(char *locked)
{
    (void)locked;
    pthread_mutex_unlock(&mutex);
}

static struct counter {
    const char *category, *name;
    long count;
} *counters;
static size_t used, room;

void stub_count(const char *category, const char *name)
{
    STUB_LOCKED;
    for (size_t i = 0; i < used; i++)
        if (!strcmp(counters[i].name, name) && !strcmp(counters[i].category, category)) {
            counters[i].count++;
            return;
        }
    if (used == room) {
        room = room ? 2 * room : 256;
        counters = realloc(counters, room * sizeof *counters);
    }
    counters[used++] = (struct counter){category, name, 1};
}

void stub_error(const char *name)
{
    stub_count("error", name);
}

void stub_reset(void)
{
    used = 0;
}

/* Writes lines "category<tab>name<tab>count" and returns how long they are, whatever the size. */
size_t stub_report(char *text, size_t size)
{
    STUB_LOCKED;
    size_t length = 0;
    for (size_t i = 0; i < used; i++)
        length += (size_t)snprintf(text + (length < size ? length : 0),
                                   length < size ? size - length : 0, "%s\t%s\t%ld\n",
                                   counters[i].category, counters[i].name, counters[i].count);
    return length;
}
