#define _GNU_SOURCE
#include <dirent.h>
#include <stdatomic.h>

#include "ahead.h"
#include "nodes.h"

enum {
    BYTES_MOST = 1 << 14, /* a larger directory takes longer to be read than anybody is busy */
    NAMES_MOST = 1 << 10, /* that are gone through at a time */
};

static _Atomic uint64_t expected; /* number of a directory; 0 for none */

static struct directory *above(const struct directory *directory)
{
    const struct child *child = directory->node == NULL ? NULL : directory->node->child;
    return child == NULL ? NULL : child->directory;
}

static bool is_worth_it(const struct child *child)
{
    return !child->gone && child->type == DT_DIR && child->source != IN_UPPER
           && child->node != NULL && child->node->directory == NULL
           && child->node->attributes.size <= BYTES_MOST;
}

/* A directory in DIRECTORY that nobody has read, each of them once. 0 if none was found. */
static uint64_t next_below(struct directory *directory)
{
    for (int names = 0; names < NAMES_MOST && directory->ahead < directory->count; names++) {
        const struct child *child = directory->children[directory->ahead++];
        if (is_worth_it(child))
            return child->node->number;
    }
    return 0;
}

/*
 * One is read ahead for each that was listed, so what is read in vain costs no more than that. The
 * next one is below what was listed, or else beside it, or beside what that is in.
 */
void ahead_listed(uint64_t number)
{
    uint64_t next = 0;
    pthread_mutex_lock(&table_lock);
    struct directory *directory = tree_directory(number);
    struct directory *from = directory == NULL ? NULL : above(directory);
    if (directory != NULL)
        directory->listed = true;
    /* Somebody walks who has listed what it is in. */
    if (from != NULL && from->listed)
        for (; next == 0 && directory != NULL && directory->listed; directory = above(directory))
            next = next_below(directory);
    if (next != 0)
        expected = next;
    pthread_mutex_unlock(&table_lock);
}

void ahead_read(void)
{
    uint64_t number = atomic_exchange(&expected, 0);
    if (number == 0 || !tree_knows(number))
        return;
    pthread_mutex_lock(&table_lock);
    struct directory *directory = tree_directory(number);
    if (directory != NULL) {
        struct fuse_attr ignored;
        int fds[TREE_DESCRIPTORS(directory)];
        directory->busy++;
        table_take(directory, fds);
        for (size_t at = 0; at < directory->count; at++)
            if (!directory->children[at]->gone)
                nodes_look(directory->children[at], fds, &ignored);
        table_give(directory, fds);
        table_rest(directory);
    }
    pthread_mutex_unlock(&table_lock);
}
