/*
 * Lower layers that are directories of the host: how their inodes are reached.
 *
 * A path is resolved beneath the layer's root, and no symbolic link is followed on the way: so
 * nothing that a layer holds leads out of it.
 */
#ifndef UNIONFS_LAYERS_H
#define UNIONFS_LAYERS_H

#include <sys/stat.h>

#include "table.h"

/*
 * The layer at POSITION: a descriptor of its ROOT that stays the caller's; whether names beginning
 * ".wh." are whiteouts in it; the number of the filesystem whose inodes are numbered by SPACE in
 * the bits from the 48th on. Returns 0, or -1 with errno.
 */
int layers_set(int position, int root, bool whiteout_files, uint64_t device, uint64_t space);

/* Whether all owners have a number in our user namespace, so that what stat(2) says is so. */
void layers_know_owners(bool all);

/* A descriptor (O_PATH) of the directory SOURCE; -1 with errno. */
int layers_directory(const struct source *source);

/* What a layer says of one name. */
struct found {
    char *name;
    size_t length;
    uint8_t type; /* DT_*; DT_WHT for a whiteout */
};

/*
 * All that SOURCE says of its names, those hidden by ".wh." files last, as an array of *COUNT that
 * the caller frees with layers_free. NULL with errno.
 */
struct found *layers_list(const struct source *source, size_t *count);

void layers_free(struct found *found, size_t count);

/*
 * The number and attributes of NAME in the directory of SOURCE that DIRECTORY_FD is. Answers 0; 1
 * if it is nothing plain, so that Python has to look at it (then only *NUMBER, which may be 0, is
 * set); -1 with errno. TYPE (DT_*) is what it is expected to be.
 */
int layers_stat(const struct source *source, int directory_fd, const char *name, uint8_t type,
                uint64_t *number, struct fuse_attr *attributes);

/*
 * Whether directory NAME in DIRECTORY_FD has a mark, or hides by a file in it what is below: what
 * it means is for Python to say. UNKNOWN is a mark, too.
 */
bool layers_has_marks(const struct source *source, int directory_fd, const char *name);

/*
 * Open the regular file NAME of SOURCE, which has the number NUMBER, for reading. -1 with errno;
 * EREMOTE if Python has to do it, as the content lies elsewhere.
 */
int layers_open(const struct source *source, const char *name, uint64_t number);

#endif
