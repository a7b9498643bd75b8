#define _GNU_SOURCE
#include <dirent.h>
#include <stdatomic.h>
#include <unistd.h>

#include "ahead.h"
#include "nodes.h"
#include "plane.h"

enum {
    BYTES_MOST = 1 << 14, /* a larger directory takes longer to be read than anybody is busy */
    NAMES_MOST = 1 << 10, /* that are gone through at a time */
};

/* Numbers of a directory and of a file; 0 for none. */
static _Atomic uint64_t expected, expected_file;

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

/* The regular file that is listed next in DIRECTORY after COOKIE; NULL if there is none near. */
static const struct child *next_file(const struct directory *directory, uint64_t cookie)
{
    size_t at = table_seek(directory, cookie);
    for (int names = 0; names < NAMES_MOST && at < directory->count; names++, at++)
        if (!directory->children[at]->gone && directory->children[at]->type == DT_REG)
            return directory->children[at];
    return NULL;
}

static void expect_file(struct directory *directory, const struct child *child)
{
    directory->next_file = child == NULL ? 0 : child->cookie;
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
    if (directory != NULL) {
        directory->listed = true;
        expect_file(directory, next_file(directory, 0));
    }
    /* Somebody walks who has listed what it is in. */
    if (from != NULL && from->listed)
        for (; next == 0 && directory != NULL && directory->listed; directory = above(directory))
            next = next_below(directory);
    if (next != 0)
        expected = next;
    pthread_mutex_unlock(&table_lock);
}

/* Whether the kernel knows NODE, of a lower layer, and could be given its content. */
static bool lacks_content(const struct node *node)
{
    return node != NULL && !node->upper && !node->pinned && !node->stored && node->references > 0
           && node->attributes.size > 0 && node->attributes.size <= STORED_MOST;
}

/* Who opens what is listed first, or after what was opened last, will go on with the next. */
void ahead_opened(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    const struct node *node = table_find(number);
    const struct child *child = node == NULL ? NULL : node->child;
    if (child != NULL) {
        bool foreseen = child->directory->next_file == child->cookie;
        const struct child *next = next_file(child->directory, child->cookie);
        expect_file(child->directory, next);
        if (foreseen && next != NULL && lacks_content(next->node))
            expected_file = next->node->number;
    }
    pthread_mutex_unlock(&table_lock);
}

static void read_file(uint64_t number)
{
    static char content[STORED_MOST]; /* only the leader reads ahead */
    int fd = nodes_open_lower(number);
    if (fd < 0)
        return;
    ssize_t size = read(fd, content, sizeof(content));
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (size > 0 && lacks_content(node) && (uint64_t)size == node->attributes.size) {
        /* Under the lock, since nobody can change a file that is not adopted. */
        node->stored = true;
        notify_store(number, content, (size_t)size);
    }
    pthread_mutex_unlock(&table_lock);
    close(fd);
}

void ahead_read(void)
{
    uint64_t file = atomic_exchange(&expected_file, 0);
    if (file != 0)
        read_file(file);
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
