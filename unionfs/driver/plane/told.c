#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "told.h"

struct told *told_new(size_t count)
{
    struct told *told = calloc(1, sizeof(*told) + count * sizeof(told->names[0]));
    if (told != NULL)
        told->count = count;
    return told;
}

static int compare(const void *one, const void *other)
{
    return strcmp(((const struct told_name *)one)->name, ((const struct told_name *)other)->name);
}

void told_sort(struct told *told)
{
    qsort(told->names, told->count, sizeof(told->names[0]), compare);
}

struct told_name *told_find(struct told *told, const char *name)
{
    const struct told_name wanted = {.name = (char *)name};
    return bsearch(&wanted, told->names, told->count, sizeof(told->names[0]), compare);
}

void told_free(struct told *told)
{
    for (size_t at = 0; told != NULL && at < told->count; at++) {
        free(told->names[at].name);
        free(told->names[at].text);
    }
    free(told);
}
