#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tree.h"

struct directory *tree_directory(uint64_t number)
{
    struct node *node = table_find(number);
    return node == NULL || node->directory == NULL || node->directory->partial ? NULL
                                                                               : node->directory;
}

/* Descriptors */

/* Whether another directory of the upper may keep a descriptor: a quarter leaves the rest to files. */
static bool may_keep_another(void)
{
    return table_upper_fds < (size_t)table_descriptors_most() / 4;
}

int tree_upper(struct directory *directory)
{
    if (!directory->upper || directory->upper_fd >= 0)
        return directory->upper_fd;
    const struct child *child = directory->node == NULL ? NULL : directory->node->child;
    int above = child == NULL ? -1 : tree_upper(child->directory);
    if (above >= 0 && may_keep_another())
        table_set_upper_fd(directory, openat(above, child->name,
                                             O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    return directory->upper_fd;
}

int tree_source_fd(const struct directory *directory, size_t source, int *fds)
{
    if (source == IN_UPPER)
        return fds[directory->source_count];
    if (fds[source] < 0)
        fds[source] = layers_directory(&directory->sources[source]);
    return fds[source];
}

int tree_layer(const struct directory *directory, size_t source)
{
    return source == IN_UPPER ? layers_upper() : directory->sources[source].layer;
}

/* Reading directories */

/* A name that a layer above has as well: what merges with it, and what ends that. */
static bool add_further(struct child *child, size_t source, uint8_t type)
{
    if (child->closed)
        return true;
    if (type == DT_WHT) {
        if (child->type == DT_DIR && child->source == source && child->more == 0)
            child->kind = ASK; /* a directory, and a whiteout of its name, in one layer */
        child->closed = 1;
        return true;
    }
    if (child->source == IN_UPPER)
        child->below = 1;
    if (child->type != DT_DIR || type != DT_DIR) {
        child->closed = 1;
        return true;
    }
    uint16_t *larger = realloc(child->further, (child->more + 1u) * sizeof(*larger));
    if (larger == NULL)
        return false;
    larger[child->more++] = (uint16_t)source;
    child->further = larger;
    return true;
}

static bool add_found(struct directory *directory, size_t source, const struct found *found)
{
    if (found->length > NAME_MAX)
        return true; /* nobody can look it up */
    struct child *child = table_child(directory, found->name, found->length);
    if (child != NULL)
        return add_further(child, source, found->type);
    child = table_add_child(directory, found->name, found->length);
    if (child == NULL)
        return false;
    child->source = (uint16_t)source;
    child->type = found->type;
    child->kind = found->type == DT_WHT ? HIDDEN : found->type == DT_UNKNOWN ? ASK : PLAIN;
    child->closed = found->type == DT_WHT;
    return true;
}

static void drop_hidden(struct directory *directory)
{
    for (size_t at = 0; at < directory->count; at++)
        if (directory->children[at]->kind == HIDDEN && !directory->children[at]->gone)
            table_remove_child(directory->children[at]);
}

void tree_free_sources(struct source *sources, size_t count)
{
    for (size_t at = 0; at < count; at++) {
        free(sources[at].path);
        told_free(sources[at].told);
    }
    free(sources);
}

/* A directory that nobody knows yet. Takes SOURCES and UPPER_FD, also if it fails. */
static struct directory *new_directory(struct source *sources, size_t count, int upper_fd)
{
    struct directory *directory = calloc(1, sizeof(*directory) + count * sizeof(*sources));
    if (directory == NULL) {
        tree_free_sources(sources, count);
        if (upper_fd >= 0)
            close(upper_fd);
        return NULL;
    }
    directory->source_count = count;
    memcpy(directory->sources, sources, count * sizeof(*sources));
    free(sources);
    directory->upper = upper_fd >= 0;
    table_set_upper_fd(directory, upper_fd);
    directory->busy = 1;
    directory->last_cookie = 2; /* after "." and ".." */
    return directory;
}

static bool add_told(struct directory *directory, size_t source)
{
    const struct told *told = directory->sources[source].told;
    bool good = true;
    pthread_mutex_lock(&table_lock);
    for (size_t at = 0; good && at < told->count; at++) {
        const struct told_name *name = &told->names[at];
        struct found found = {name->name, strlen(name->name), name->type};
        good = add_found(directory, source, &found);
    }
    pthread_mutex_unlock(&table_lock);
    return good;
}

/* Answers 0, or an errno. */
static int read_source(struct directory *directory, size_t source, int fd)
{
    size_t count;
    struct found *found = layers_list(tree_layer(directory, source), fd, &count);
    if (found == NULL)
        return errno;
    bool good = true;
    pthread_mutex_lock(&table_lock);
    for (size_t name = 0; good && name < count; name++)
        good = add_found(directory, source, &found[name]);
    pthread_mutex_unlock(&table_lock);
    layers_free(found, count);
    return good ? 0 : ENOMEM;
}

static int read_upper(struct directory *directory)
{
    int fd = layers_open_upper_listing(directory->upper_fd);
    if (fd < 0)
        return errno;
    int error = read_source(directory, IN_UPPER, fd);
    close(fd);
    return error;
}

/* So many sources of a directory that is read are opened at a time, and stay at hand. */
enum { SOURCES_OPEN = 16 };

/* *FD: its descriptor, -1 if it does not stay. */
static int read_lower(struct directory *directory, size_t source, int *fd)
{
    *fd = -1;
    if (directory->sources[source].told != NULL)
        return add_told(directory, source) ? 0 : ENOMEM;
    int opened = layers_open_listing(&directory->sources[source]);
    if (opened < 0)
        return errno;
    int error = read_source(directory, source, opened);
    if (error == 0 && source < SOURCES_OPEN)
        *fd = opened;
    else
        close(opened);
    return error;
}

/*
 * Read all that DIRECTORY consists of, topmost first. FDS: its descriptors, as far as they are open
 * now. Answers 0, or an errno.
 */
static int read_sources(struct directory *directory, int *fds)
{
    for (size_t at = 0; at < TREE_DESCRIPTORS(directory); at++)
        fds[at] = -1;
    int error = directory->upper ? read_upper(directory) : 0;
    for (size_t at = 0; error == 0 && at < directory->source_count; at++)
        error = read_lower(directory, at, &fds[at]);
    return error;
}

struct directory *tree_read(struct source *sources, size_t count, int upper_fd)
{
    struct directory *directory = new_directory(sources, count, upper_fd);
    if (directory == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    int fds[TREE_DESCRIPTORS(directory)];
    int error = read_sources(directory, fds);
    pthread_mutex_lock(&table_lock);
    table_give(directory, fds);
    if (error != 0)
        table_rest(directory);
    pthread_mutex_unlock(&table_lock);
    if (error == 0)
        return directory;
    errno = error;
    return NULL;
}

int tree_install(struct directory *directory, uint64_t number, struct node **node)
{
    *node = table_find(number);
    if (*node == NULL) {
        *node = table_add(number);
        if (*node == NULL)
            return ENOMEM;
        (*node)->is_directory = true;
        (*node)->changing = true;
    } else if ((*node)->directory != NULL) {
        return EEXIST;
    }
    drop_hidden(directory);
    directory->node = *node;
    (*node)->directory = directory;
    if (directory->upper) {
        (*node)->upper = true;
        (*node)->changing = false;
    }
    return 0;
}

/* DIRECTORY, of which some names are known, has all those that WHOLE has read. */
static void complete(struct directory *directory, struct directory *whole)
{
    drop_hidden(whole);
    directory->partial = !table_absorb(directory, whole);
}

/* The sources of the plain directory that CHILD is. NULL without memory. */
static struct source *sources_below(const struct child *child, size_t *count)
{
    bool upper = child->source == IN_UPPER;
    *count = child->more + (upper ? 0u : 1u);
    struct source *sources = calloc(*count + 1, sizeof(*sources));
    if (sources == NULL)
        return NULL;
    for (size_t at = 0; at < *count; at++) {
        size_t above = upper ? child->further[at] : at == 0 ? child->source : child->further[at - 1];
        const struct source *from = &child->directory->sources[above];
        sources[at].layer = from->layer;
        sources[at].fd = -1;
        int size = strcmp(from->path, ".") == 0
                       ? asprintf(&sources[at].path, "%s", child->name)
                       : asprintf(&sources[at].path, "%s/%s", from->path, child->name);
        if (size < 0) {
            tree_free_sources(sources, at);
            return NULL;
        }
    }
    return sources;
}

/* Whether all that the directory CHILD consists of can be read. */
static bool is_readable(const struct child *child)
{
    for (size_t at = 0; at <= child->more; at++)
        if (layers_told(tree_layer(child->directory,
                                   at == 0 ? child->source : child->further[at - 1])))
            return false;
    return true;
}

/* Whether NODE is a plain directory whose names are not all known, but can be read. */
static bool is_unread(const struct node *node)
{
    return node->is_directory && (node->directory == NULL || node->directory->partial)
           && !node->pinned && node->child != NULL && is_readable(node->child);
}

/* The directory, yet to be read, that plain NODE is; NULL if that can't be said. */
static struct directory *directory_to_read(const struct node *node)
{
    const struct child *child = node->child;
    if (!is_unread(node))
        return NULL;
    bool upper = child->source == IN_UPPER;
    int fd = -1;
    if (upper) {
        int above = tree_upper(child->directory);
        if (above >= 0 && may_keep_another())
            fd = openat(above, child->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return NULL;
    }
    size_t count;
    struct source *sources = sources_below(child, &count);
    if (sources == NULL) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    return new_directory(sources, count, fd);
}

bool tree_knows(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    bool known = tree_directory(number) != NULL && !node->directory->left;
    struct directory *directory = node == NULL ? NULL : directory_to_read(node);
    pthread_mutex_unlock(&table_lock);
    if (directory == NULL)
        return known;
    int fds[TREE_DESCRIPTORS(directory)];
    int error = read_sources(directory, fds);
    pthread_mutex_lock(&table_lock);
    table_give(directory, fds);
    node = table_find(number);
    if (error == 0 && node != NULL && is_unread(node)) {
        if (node->directory == NULL)
            tree_install(directory, number, &node);
        else
            complete(node->directory, directory);
    }
    known = tree_directory(number) != NULL;
    table_rest(directory);
    pthread_mutex_unlock(&table_lock);
    return known;
}

/*
 * Names that are asked for one by one; from then on it pays to read them all. As unionfs/tree.py has
 * it.
 */
enum { ASKED_MOST = 8 };

struct directory *tree_asked(uint64_t number)
{
    struct node *node = table_find(number);
    if (node == NULL)
        return NULL;
    struct directory *directory = node->directory;
    if (directory == NULL && is_unread(node) && node->child->source != IN_UPPER) {
        directory = directory_to_read(node);
        if (directory == NULL)
            return NULL;
        directory->partial = true;
        tree_install(directory, number, &node);
        directory->busy = 0;
    }
    if (directory == NULL || directory->left
        || (directory->partial && directory->asked++ >= ASKED_MOST))
        return NULL;
    directory->busy++;
    return directory;
}

/* What the sources of a directory have under one name: each DT_*, DT_WHT, or NOTHING. */
struct answers {
    uint8_t type;
    bool hidden; /* there is a whiteout of it beside it */
};

/* Answers whether all sources could be asked. Called without the lock. */
static bool ask_sources(const struct directory *directory, const char *name, int *fds,
                        struct answers *answers)
{
    bool closed = false;
    for (size_t at = 0; at < directory->source_count; at++) {
        struct answers *answer = &answers[at];
        *answer = (struct answers){LAYERS_NOTHING, false};
        if (closed)
            continue;
        int layer = directory->sources[at].layer;
        int fd = tree_source_fd(directory, at, fds);
        if (fd < 0 || layers_type(fd, name, &answer->type) != 0)
            return false;
        closed = answer->type != LAYERS_NOTHING && answer->type != DT_DIR;
        /* Of what closes, or has nothing below, it would not matter. */
        if (answer->type == DT_DIR || (!closed && at + 1 < directory->source_count))
            answer->hidden = layers_hides(layer, fd, name);
        closed = closed || answer->hidden;
    }
    return true;
}

bool tree_ask(struct directory *directory, const char *name, size_t length, int *fds)
{
    struct answers answers[directory->source_count + 1];
    pthread_mutex_unlock(&table_lock);
    /* Such names are marks in some layers: the whole tells. */
    bool good = strncmp(name, ".wh.", 4) != 0 && ask_sources(directory, name, fds, answers);
    pthread_mutex_lock(&table_lock);
    /* Somebody else may have asked for it, or read the directory, meanwhile. */
    if (!good || !directory->partial || table_child(directory, name, length) != NULL)
        return good;
    for (size_t at = 0; good && at < directory->source_count; at++) {
        struct found found = {(char *)name, length, answers[at].type};
        if (found.type != LAYERS_NOTHING)
            good = add_found(directory, at, &found);
        found.type = DT_WHT;
        if (good && answers[at].hidden)
            good = add_found(directory, at, &found);
    }
    struct child *child = table_child(directory, name, length);
    if (child != NULL && (!good || child->kind == HIDDEN))
        table_remove_child(child);
    return good;
}
