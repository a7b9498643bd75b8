/*
 * Plain nodes: what they are, where they are, and what was told of them.
 *
 * Functions that take a child or a node are called under the table's lock. Where it is said, they
 * give the lock up meanwhile: then the child's directory has to be busy, so that it stays.
 */
#ifndef UNIONFS_NODES_H
#define UNIONFS_NODES_H

#include <limits.h>

#include "tree.h"

/* Where a plain node of a lower layer is: copies, to be used without the lock. */
struct place {
    struct source source;
    char name[NAME_MAX + 1];
    bool told; /* the layer's names are; then SOURCE does not lead to it, but this tells of it: */
    bool bare;
    char *text;
    struct fuse_attr attributes;
};

/*
 * Answers whether NUMBER is such a node, of TYPE (S_IFMT) if that is not 0; then the place is to be
 * left. Called without the lock.
 */
bool nodes_find_place(uint64_t number, mode_t type, struct place *place);
void nodes_leave_place(struct place *place);

/* A descriptor for reading regular file NUMBER at PLACE; -1 if Python has to open it. */
int nodes_open_place(const struct place *place, uint64_t number);

/* The same of one whose place nobody has found yet. Called without the lock. */
int nodes_open_lower(uint64_t number);

/* Whether NUMBER is such a node, and known to have no extended attributes. */
bool nodes_is_bare(uint64_t number);

/* Whether it may be opened here, or is no file whose name was told. */
bool nodes_is_trusted(uint64_t number);

/*
 * PATH is where the content of file NAME of directory PARENT is, whose name was told. Answers false
 * if that was known, or does not matter. Called without the lock.
 */
bool nodes_trust(uint64_t parent, const char *name, const char *path);

/*
 * Up to MOST names, to be freed, of files that may not be opened here yet, of at most SIZE bytes:
 * those that were told after that of NUMBER. Answers how many. Called without the lock.
 */
size_t nodes_untrusted(uint64_t number, uint64_t size, char **names, size_t most);

/*
 * The node of CHILD, made now if need be, with its attributes as they are now; NULL if Python has to
 * answer for it. FDS are of its directory. Gives the lock up meanwhile.
 */
struct node *nodes_look(struct child *child, int *fds, struct fuse_attr *attributes);

/*
 * The attributes of node NUMBER; answers 0, an errno, or -1 if Python has to answer. Called without
 * the lock.
 */
int nodes_attributes(uint64_t number, struct fuse_attr *attributes);

/*
 * A descriptor of plain node NUMBER of the upper, opened with FLAGS (O_PATH, or as a regular file);
 * -1 if Python has to do that. Called without the lock.
 */
int nodes_open_upper(uint64_t number, int flags);

/* A name that is claimed: nobody else changes what it is, or takes it over. */
struct claim {
    struct child *child;
    struct directory *directory;
    int above; /* the upper's descriptor of the directory */
};

/* The node of NUMBER, once its name is not claimed any more. Gives the lock up meanwhile. */
struct node *nodes_settled(uint64_t number);

/* Answers whether that can be: the directory has to be in the upper. */
bool nodes_claim(struct child *child, struct claim *claim);
void nodes_settle(struct claim *claim);

/*
 * CHILD was made in the upper: the node of it, with its attributes. NULL if that can't be, so that
 * Python has to answer for it. Gives the lock up meanwhile.
 */
struct node *nodes_made(struct child *child, struct fuse_attr *attributes);

#endif
