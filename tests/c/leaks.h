/* Whether doing something many times leaves descriptors or threads behind. */
#ifndef LEAKS_H
#define LEAKS_H

#include "test.h"

static int entries(const char *path)
{
    DIR *directory = opendir(path);
    int count = 0;
    CHECK(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

/* Does it once, counts, and does it that many times more. */
static inline int leaves_nothing(void (*once)(void), int times)
{
    once();
    int descriptors = entries("/proc/self/fd"), threads = entries("/proc/self/task");
    for (int i = 0; i < times; i++)
        once();
    /* Threads that end are told to before they are gone. */
    for (int i = 0; i < 500 && (entries("/proc/self/fd") > descriptors || entries("/proc/self/task") > threads); i++)
        usleep(20000);
    printf("descriptors %d, then %d; threads %d, then %d\n", descriptors, entries("/proc/self/fd"), threads,
           entries("/proc/self/task"));
    CHECK(entries("/proc/self/fd") <= descriptors);
    CHECK(entries("/proc/self/task") <= threads);
    return 0;
}

#endif
