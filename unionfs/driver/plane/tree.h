/*
 * The tree as the plane knows it: directories read from their layers, and the plain nodes in them.
 *
 * Functions that take a child or a node are called under the table's lock. Where it is said, they
 * give the lock up meanwhile: then the child's directory has to be busy, so that it stays.
 */
#ifndef UNIONFS_TREE_H
#define UNIONFS_TREE_H

#include <limits.h>

#include "layers.h"

/* The directory NUMBER, if all names in it are known. */
struct directory *tree_directory(uint64_t number);

/*
 * A directory that consists of SOURCES and of UPPER_FD (-1 if the upper does not have it), all of its
 * names read, and busy. They become its own, also if this fails: NULL with errno. Called without the
 * lock.
 */
struct directory *tree_read(struct source *sources, size_t count, int upper_fd);

/* Free sources that were not given away, with all that they have. */
void tree_free_sources(struct source *sources, size_t count);

/* Let node NUMBER, a new one if there is none, have DIRECTORY. Answers 0, or an errno. */
int tree_install(struct directory *directory, uint64_t number, struct node **node);

/*
 * Whether all names in directory NUMBER are known, or can be now. Where not, Python has to answer:
 * it knows the rule, or the error. Called without the lock.
 */
bool tree_knows(uint64_t number);

/*
 * The directory NUMBER, busy from now on, for one name in it: of a directory that nobody has read
 * yet, some names are asked for one by one. NULL if all are to be read.
 */
struct directory *tree_asked(uint64_t number);

/*
 * Let NAME, if there is one, be known in DIRECTORY, which is partial. FDS are of the directory.
 * Answers false if Python has to answer for it. Gives the lock up meanwhile.
 */
bool tree_ask(struct directory *directory, const char *name, size_t length, int *fds);

/* The position of the layer that SOURCE of DIRECTORY, or IN_UPPER, is of. */
int tree_layer(const struct directory *directory, size_t source);

/*
 * Descriptors of what a directory consists of: its sources, and at last the upper; -1 for those
 * that are not open yet.
 */
#define TREE_DESCRIPTORS(directory) ((directory)->source_count + 1)

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
bool tree_find_place(uint64_t number, mode_t type, struct place *place);
void tree_leave_place(struct place *place);

/* A descriptor for reading regular file NUMBER at PLACE; -1 if Python has to open it. */
int tree_open_place(const struct place *place, uint64_t number);

/* Whether NUMBER is such a node, and known to have no extended attributes. */
bool tree_is_bare(uint64_t number);

/* Whether it may be opened here, or is no file whose name was told. */
bool tree_is_trusted(uint64_t number);

/*
 * PATH is where the content of file NAME of directory PARENT is, whose name was told. Answers false
 * if that was known, or does not matter. Called without the lock.
 */
bool tree_trust(uint64_t parent, const char *name, const char *path);

/*
 * Up to MOST names, to be freed, of files that may not be opened here yet, of at most SIZE bytes:
 * those that were told after that of NUMBER. Answers how many. Called without the lock.
 */
size_t tree_untrusted(uint64_t number, uint64_t size, char **names, size_t most);

/* The upper's descriptor of DIRECTORY, which stays the directory's; -1 if it is not at hand. */
int tree_upper(struct directory *directory);

/*
 * The node of CHILD, made now if need be, with its attributes as they are now; NULL if Python has to
 * answer for it. FDS are of its directory. Gives the lock up meanwhile.
 */
struct node *tree_look(struct child *child, int *fds, struct fuse_attr *attributes);

/*
 * The attributes of node NUMBER; answers 0, an errno, or -1 if Python has to answer. Called without
 * the lock.
 */
int tree_attributes(uint64_t number, struct fuse_attr *attributes);

/*
 * A descriptor of plain node NUMBER of the upper, opened with FLAGS (O_PATH, or as a regular file);
 * -1 if Python has to do that. Called without the lock.
 */
int tree_open_upper(uint64_t number, int flags);

/* A name that is claimed: nobody else changes what it is, or takes it over. */
struct claim {
    struct child *child;
    struct directory *directory;
    int above; /* the upper's descriptor of the directory */
};

/* Answers whether that can be: the directory has to be in the upper. */
bool tree_claim(struct child *child, struct claim *claim);
void tree_settle(struct claim *claim);

/*
 * CHILD was made in the upper: the node of it, with its attributes. NULL if that can't be, so that
 * Python has to answer for it. Gives the lock up meanwhile.
 */
struct node *tree_made(struct child *child, struct fuse_attr *attributes);

#endif
