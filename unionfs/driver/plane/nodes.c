#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nodes.h"

/* What was told of CHILD in the SOURCE of its directory that has it; NULL if that was read. */
static struct told_name *told_child(const struct child *child, size_t source)
{
    struct told *told = source == IN_UPPER ? NULL : child->directory->sources[source].told;
    return told == NULL ? NULL : told_find(told, child->name);
}

bool nodes_find_place(uint64_t number, mode_t type, struct place *place)
{
    bool found = false;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node != NULL && !node->pinned && !node->upper && node->child != NULL
        && (type == 0 || (node->attributes.mode & S_IFMT) == type)) {
        const struct child *child = node->child;
        *place = (struct place){.source = child->directory->sources[child->source]};
        place->source.path = strdup(place->source.path);
        memcpy(place->name, child->name, child->length);
        const struct told_name *told = told_child(child, child->source);
        if (told != NULL) {
            place->told = true;
            place->bare = told->bare;
            place->attributes = told->attributes;
            place->text = told->text == NULL ? NULL : strdup(told->text);
        }
        found = place->source.path != NULL;
    }
    pthread_mutex_unlock(&table_lock);
    return found;
}

void nodes_leave_place(struct place *place)
{
    free(place->source.path);
    free(place->text);
}

int nodes_open_place(const struct place *place, uint64_t number)
{
    if (!place->told)
        return layers_open(&place->source, place->name, number);
    if (place->text == NULL)
        return -1;
    return layers_content(place->source.layer, place->text, place->attributes.size);
}

int nodes_open_lower(uint64_t number)
{
    struct place place;
    if (!nodes_find_place(number, S_IFREG, &place))
        return -1;
    int fd = nodes_open_place(&place, number);
    nodes_leave_place(&place);
    return fd;
}

/* What was told of plain node NUMBER of a lower layer. Under the lock. */
static struct told_name *told_node(uint64_t number)
{
    const struct node *node = table_find(number);
    if (node == NULL || node->pinned || node->upper || node->child == NULL)
        return NULL;
    return told_child(node->child, node->child->source);
}

bool nodes_is_bare(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    const struct told_name *told = told_node(number);
    bool bare = told != NULL && told->bare;
    pthread_mutex_unlock(&table_lock);
    return bare;
}

size_t nodes_untrusted(uint64_t number, uint64_t size, char **names, size_t most)
{
    size_t count = 0;
    pthread_mutex_lock(&table_lock);
    const struct told_name *found = told_node(number);
    if (found != NULL) {
        const struct child *child = table_find(number)->child;
        const struct told *told = child->directory->sources[child->source].told;
        const struct told_name *end = told->names + told->count;
        for (const struct told_name *next = found + 1; next < end && count < most; next++)
            if (next->type == DT_REG && next->text == NULL && next->attributes.size <= size) {
                names[count] = strdup(next->name);
                if (names[count] == NULL)
                    break;
                count++;
            }
    }
    pthread_mutex_unlock(&table_lock);
    return count;
}

bool nodes_is_trusted(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    const struct told_name *told = told_node(number);
    bool trusted = told == NULL || told->type != DT_REG || told->text != NULL;
    pthread_mutex_unlock(&table_lock);
    return trusted;
}

bool nodes_trust(uint64_t parent, const char *name, const char *path)
{
    bool trusted = false;
    pthread_mutex_lock(&table_lock);
    const struct directory *directory = tree_directory(parent);
    const struct child *child =
        directory == NULL ? NULL : table_child(directory, name, strlen(name));
    struct told_name *told = child == NULL ? NULL : told_child(child, child->source);
    if (told != NULL && told->type == DT_REG && told->text == NULL) {
        told->text = strdup(path);
        trusted = told->text != NULL;
    }
    pthread_mutex_unlock(&table_lock);
    return trusted;
}

struct node *nodes_settled(uint64_t number)
{
    struct node *node = table_find(number);
    while (node != NULL && node->child != NULL && node->child->claimed) {
        pthread_cond_wait(&table_settled, &table_lock);
        node = table_find(number);
    }
    return node;
}

bool nodes_claim(struct child *child, struct claim *claim)
{
    *claim = (struct claim){child, child->directory, tree_upper(child->directory)};
    if (claim->above < 0)
        return false;
    child->claimed = 1;
    child->directory->busy++;
    return true;
}

void nodes_settle(struct claim *claim)
{
    claim->child->claimed = 0;
    table_rest(claim->directory);
    pthread_cond_broadcast(&table_settled);
}

/* As layers_stat, of CHILD in the SOURCE of its directory. */
static int stat_source(const struct child *child, size_t source, int *fds, uint64_t *number,
                       struct fuse_attr *attributes)
{
    const struct directory *directory = child->directory;
    int layer = tree_layer(directory, source);
    const struct told_name *told = told_child(child, source);
    if (told != NULL) {
        *number = layers_number(layer, told->attributes.ino);
        *attributes = told->attributes;
        attributes->ino = *number;
        return *number == 0 || !told->plain;
    }
    int fd = tree_source_fd(directory, source, fds);
    return fd < 0 ? 1 : layers_stat(layer, fd, child->name, child->type, number, attributes);
}

/* Whether what CHILD consists of is what layers have under one name, without further rules. */
static bool is_unmarked(const struct child *child, int *fds)
{
    const struct directory *directory = child->directory;
    bool is_directory = child->type == DT_DIR;
    if (!is_directory && child->source != IN_UPPER)
        return true; /* what matters is looked at when it is opened */
    for (size_t at = 0; at <= child->more && !child->fresh; at++) {
        size_t source = at == 0 ? child->source : child->further[at - 1];
        const struct told_name *told = told_child(child, source);
        if (told != NULL && told->plain)
            continue;
        int fd = tree_source_fd(directory, source, fds);
        if (fd < 0
            || layers_has_marks(tree_layer(directory, source), fd, child->name, is_directory))
            return false;
    }
    return true;
}

/*
 * What there is to know of a plain CHILD: its number, and its attributes as they are now. Answers 0;
 * 1 if it is nothing plain; -1 with errno. Called without the lock.
 */
static int examine(const struct child *child, int *fds, uint64_t *number,
                   struct fuse_attr *attributes)
{
    struct fuse_attr ignored;
    int result = stat_source(child, child->source, fds, number, attributes);
    /* It may be noted in a mark, or that of another name that was copied up (the index). */
    if (result == 1 && layers_upper() >= 0)
        *number = 0;
    if (result == 0 && !is_unmarked(child, fds)) {
        *number = 0;
        return 1;
    }
    if (result != 0 || child->more == 0)
        return result;
    /* Of a directory that merges, what programs read as its number of directories is not known. */
    attributes->nlink = 1;
    if (child->source != IN_UPPER)
        return 0;
    /* The number is that of the topmost below. */
    result = stat_source(child, child->further[0], fds, number, &ignored);
    attributes->ino = *number;
    return result;
}

static struct node *add_plain(struct child *child, uint64_t number,
                              const struct fuse_attr *attributes)
{
    struct node *node = table_find(number) == NULL ? table_add(number) : NULL;
    if (node == NULL) {
        child->kind = ASK; /* Python finds another number */
        return NULL;
    }
    child->number = number;
    node->is_directory = child->type == DT_DIR;
    node->upper = child->source == IN_UPPER;
    node->inode = number;
    node->attributes = *attributes;
    node->above = child->directory->node == NULL ? 0 : child->directory->node->number;
    node->child = child;
    child->node = node;
    return node;
}

/* The attributes of the upper are those of NODE, whose name CHILD is or was. */
static void adjust(const struct node *node, const struct child *child,
                   struct fuse_attr *attributes)
{
    attributes->ino = node->number;
    if (node->is_directory
        && (node->directory != NULL ? node->directory->source_count > 0
                                    : child != NULL && child->more > 0))
        attributes->nlink = 1;
}

struct node *nodes_look(struct child *child, int *fds, struct fuse_attr *attributes)
{
    struct directory *directory = child->directory;
    struct node *node = child->node;
    uint64_t number = 0;
    if (node == NULL && child->kind != PLAIN)
        return NULL;
    if (node != NULL && node->changing)
        return NULL;
    if (node != NULL && !node->upper) {
        *attributes = node->attributes;
        return node;
    }
    if (node != NULL && node->pinned && node->directory == NULL)
        return NULL; /* whether it merges only Python knows */
    fds[directory->source_count] = tree_upper(directory);
    bool is_new = node == NULL;
    pthread_mutex_unlock(&table_lock);
    int result = is_new ? examine(child, fds, &number, attributes)
                        : layers_stat(layers_upper(), fds[directory->source_count], child->name,
                                      child->type, &number, attributes);
    pthread_mutex_lock(&table_lock);
    if (child->gone || result < 0)
        return NULL;
    node = child->node;
    if (node == NULL && is_new && child->kind == PLAIN) {
        if (result == 0)
            return add_plain(child, number, attributes);
        child->kind = ASK;
        child->number = number;
        return NULL;
    }
    if (node == NULL || result != 0 || node->changing)
        return NULL;
    adjust(node, child, attributes);
    return node;
}

int nodes_attributes(uint64_t number, struct fuse_attr *attributes)
{
    uint64_t found;
    int result = -1;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node == NULL || node->changing)
        goto unlock;
    if (!node->upper) {
        *attributes = node->attributes;
        result = 0;
        goto unlock;
    }
    const char *name = "";
    uint8_t type = IFTODT(node->attributes.mode);
    int fd = node->fd;
    struct directory *directory = node->directory;
    if (fd < 0 && directory != NULL) {
        fd = tree_upper(directory);
        type = DT_DIR;
    } else if (fd < 0 && node->child != NULL && !(node->is_directory && node->pinned)) {
        directory = node->child->directory;
        fd = tree_upper(directory);
        name = node->child->name;
        type = node->child->type;
    }
    if (fd < 0)
        goto unlock;
    if (directory != NULL)
        directory->busy++;
    pthread_mutex_unlock(&table_lock);
    /* What was removed has no link left, so that it is not plain any more, but still the same. */
    result = layers_stat(layers_upper(), fd, name, type, &found, attributes) < 0 ? -1 : 0;
    pthread_mutex_lock(&table_lock);
    node = table_find(number);
    if (node == NULL || (!node->is_directory && found != node->inode))
        result = -1;
    if (result == 0)
        adjust(node, node->child, attributes);
    if (directory != NULL)
        table_rest(directory);
unlock:
    pthread_mutex_unlock(&table_lock);
    return result;
}

int nodes_open_upper(uint64_t number, int flags)
{
    char path[sizeof("/proc/self/fd/") + 3 * sizeof(int)];
    int fd = -1;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node == NULL || !node->upper || node->pinned)
        goto unlock;
    if (node->fd >= 0) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", node->fd);
        fd = flags == O_PATH ? fcntl(node->fd, F_DUPFD_CLOEXEC, 0)
                             : open(path, flags | O_CLOEXEC | O_NONBLOCK);
        goto unlock;
    }
    int above = node->child == NULL ? -1 : tree_upper(node->child->directory);
    if (above < 0)
        goto unlock;
    struct directory *directory = node->child->directory;
    const char *name = node->child->name;
    directory->busy++;
    pthread_mutex_unlock(&table_lock);
    fd = openat(above, name, flags | O_NOFOLLOW | O_CLOEXEC | (flags == O_PATH ? 0 : O_NONBLOCK));
    pthread_mutex_lock(&table_lock);
    node = table_find(number);
    /* A directory that merges has its number from below. */
    if (fd >= 0
        && (node == NULL
            || (!node->is_directory && !layers_is(layers_upper(), fd, node->inode)))) {
        close(fd);
        fd = -1;
    }
    table_rest(directory);
unlock:
    pthread_mutex_unlock(&table_lock);
    return fd;
}

struct node *nodes_made(struct child *child, struct fuse_attr *attributes)
{
    struct directory *directory = child->directory;
    uint64_t number = 0;
    int fd = tree_upper(directory);
    child->source = IN_UPPER;
    child->kind = PLAIN;
    child->fresh = 1;
    pthread_mutex_unlock(&table_lock);
    int result = layers_stat(layers_upper(), fd, child->name, child->type, &number, attributes);
    pthread_mutex_lock(&table_lock);
    if (result != 0 || child->gone || child->kind != PLAIN)
        return NULL;
    return child->node != NULL ? child->node : add_plain(child, number, attributes);
}
