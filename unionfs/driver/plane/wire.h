/*
 * The kernel's side: what <linux/fuse.h> of older distributions does not have yet
 * (include/uapi/linux/fuse.h of Linux 6.9), and the shape of requests and replies.
 */
#ifndef UNIONFS_WIRE_H
#define UNIONFS_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <linux/fuse.h>

#ifndef FOPEN_PASSTHROUGH
#define FOPEN_PASSTHROUGH (1 << 7)
#define FUSE_DEV_IOC_BACKING_OPEN _IOW(229, 1, struct fuse_backing_map)
#define FUSE_DEV_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)

struct fuse_backing_map {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
#endif

/* FUSE_COPY_FILE_RANGE_64 of Linux 6.18: the same request, answered with 64 bits. */
enum { COPY_FILE_RANGE_64 = 53 };

/* FUSE_TMPFILE of Linux 6.1: the body of FUSE_CREATE. */
enum { TMPFILE = 51 };

/* fuse_open_out has its third word as padding in older headers. */
struct open_reply {
    uint64_t fh;
    uint32_t open_flags;
    int32_t backing_id;
};
_Static_assert(sizeof(struct open_reply) == sizeof(struct fuse_open_out), "the same reply");

/* A request as the kernel wrote it: the header, then what belongs to the opcode. */
struct request {
    const struct fuse_in_header *header;
    const void *body;
    size_t size; /* bytes of the body */
};

/* The body as a TYPE, or NULL if it is too short to be one. */
#define BODY(request, type) \
    ((request)->size >= sizeof(type) ? (const type *)(request)->body : (const type *)NULL)

#endif
