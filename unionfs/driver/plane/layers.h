/*
 * Layers that are directories of the host: how their inodes are reached. And of layers whose names
 * Python tells (see told.h) the contents.
 *
 * A path is resolved beneath the layer's root, and no symbolic link is followed on the way: so
 * nothing that a layer holds leads out of it.
 */
#ifndef UNIONFS_LAYERS_H
#define UNIONFS_LAYERS_H

#include <sys/stat.h>

#include "table.h"

enum { LAYERS_UUID = 16 };

/*
 * The layer at POSITION: a descriptor of its ROOT that stays the caller's; whether names beginning
 * ".wh." are whiteouts in it; the number of the filesystem whose inodes are numbered by SPACE in
 * the bits from the 48th on. Returns 0, or -1 with errno.
 */
int layers_set(int position, int root, bool whiteout_files, uint64_t device, uint64_t space);

/* The names of LAYER are told; its root is the directory that contents are in. */
void layers_set_told(int layer);
bool layers_told(int layer);

/* The UUID of the filesystem of LAYER: zeros until it is set. */
void layers_set_uuid(int layer, const uint8_t *uuid);
void layers_uuid(int layer, uint8_t *uuid);

/* Whether all owners have a number in our user namespace, so that what stat(2) says is so. */
void layers_know_owners(bool all);

/* The position of the layer that is the upper; there is none with -1. */
void layers_set_upper(int position);
int layers_upper(void);

/* FD, which stays the caller's, is on the filesystem whose space statfs(2) tells of the union. */
void layers_set_space(int fd);

/* Put that into SPACE. Answers 0, or an errno. */
int layers_space(struct fuse_kstatfs *space);

/* A descriptor (O_PATH) of the directory SOURCE; -1 with errno, EREMOTE where names are told. */
int layers_directory(const struct source *source);

/* The same, which can be listed: for layers_list. */
int layers_open_listing(const struct source *source);

/* One that can be listed of a directory of the upper; -1 with errno. */
int layers_open_upper_listing(int directory_fd);

/* What a layer says of one name. */
struct found {
    char *name;
    size_t length;
    uint8_t type; /* DT_*; DT_WHT for a whiteout */
};

/*
 * All that directory DIRECTORY_FD, just opened to be listed, of layer LAYER says of its names, those
 * hidden by ".wh." files last, as an array of *COUNT that the caller frees with layers_free. NULL
 * with errno.
 */
struct found *layers_list(int layer, int directory_fd, size_t *count);

void layers_free(struct found *found, size_t count);

/* What layers_type answers for a name that is not there. */
enum { LAYERS_NOTHING = 0xff };

/* What NAME is in directory DIRECTORY_FD of a layer: TYPE as of struct found. 0, or -1 with errno. */
int layers_type(int directory_fd, const char *name, uint8_t *type);

/* Whether a file in directory DIRECTORY_FD of layer LAYER hides NAME. Unknown is yes, too. */
bool layers_hides(int layer, int directory_fd, const char *name);

/*
 * The number and attributes of NAME, or of DIRECTORY_FD itself if that is empty, in directory
 * DIRECTORY_FD of layer LAYER. Answers 0; 1 if it is nothing plain, so that Python has to look at it
 * (then *NUMBER may be 0); -1 with errno. TYPE (DT_*) is what it is to be.
 */
int layers_stat(int layer, int directory_fd, const char *name, uint8_t type,
                uint64_t *number, struct fuse_attr *attributes);

/*
 * Whether NAME in directory DIRECTORY_FD of layer LAYER has a mark, or is a directory that hides by
 * a file in it what is below: what that means is for Python to say. Unknown is a mark, too.
 */
bool layers_has_marks(int layer, int directory_fd, const char *name, bool is_directory);

/* A descriptor (O_PATH) of NAME in SOURCE; -1 with errno. */
int layers_name(const struct source *source, const char *name);

/*
 * Open the regular file NAME of SOURCE, which has the number NUMBER, for reading. -1 with errno;
 * EREMOTE if Python has to do it, as the content lies elsewhere or the layer has changed.
 */
int layers_open(const struct source *source, const char *name, uint64_t number);

/*
 * Open a content of LAYER, whose names are told, for reading. -1 with errno, ESTALE if it has not
 * SIZE bytes: one that was found to be damaged is replaced by a note.
 */
int layers_content(int layer, const char *path, uint64_t size);

/* Put owner, mode and times of what was told into STATUS. */
void layers_told_status(const struct fuse_attr *told, struct stat *status);

/* The number of inode INODE of LAYER, whose names are told; 0 if only Python knows it. */
uint64_t layers_number(int layer, uint64_t inode);

/* Whether FD, of layer LAYER, is the inode that has the number NUMBER. */
bool layers_is(int layer, int fd, uint64_t number);

#endif
