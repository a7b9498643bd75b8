/*
 * The tree as the plane knows it: directories, read from their layers or asked for single names.
 *
 * Functions that take a child or a node are called under the table's lock. Where it is said, they
 * give the lock up meanwhile: then the child's directory has to be busy, so that it stays.
 */
#ifndef UNIONFS_TREE_H
#define UNIONFS_TREE_H

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

/* The upper's descriptor of DIRECTORY, which stays the directory's; -1 if it is not at hand. */
int tree_upper(struct directory *directory);

/*
 * The descriptor of SOURCE of DIRECTORY, or of the upper (IN_UPPER), among FDS, which are its own;
 * opened now if need be. -1 with errno.
 */
int tree_source_fd(const struct directory *directory, size_t source, int *fds);

#endif
