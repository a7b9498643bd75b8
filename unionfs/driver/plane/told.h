/*
 * What Python has told of the names in a directory of a layer that is no directory of the host: one
 * of a store, whose names are in an index, and whose contents are files of other names.
 */
#ifndef UNIONFS_TOLD_H
#define UNIONFS_TOLD_H

#include "wire.h"

struct told_name {
    char *name;
    uint8_t type; /* DT_*; DT_WHT for a whiteout */
    bool plain;   /* nothing about it is for Python to say */
    bool bare;    /* it has no extended attributes */
    struct fuse_attr attributes; /* with the inode's number in its layer */
    /*
     * The target of a symbolic link; the path of a file's content below the layer's root, once that
     * is known to be right. NULL for others.
     */
    char *text;
};

/* Sorted by their names, of which each is there once. */
struct told {
    size_t count;
    struct told_name names[];
};

/* Room for COUNT names, to be filled in and sorted. NULL without memory. */
struct told *told_new(size_t count);

void told_sort(struct told *told);

/* NULL if NAME is not there. */
struct told_name *told_find(struct told *told, const char *name);

/* TOLD may be NULL. */
void told_free(struct told *told);

#endif
