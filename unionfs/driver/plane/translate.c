#define _GNU_SOURCE
#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>

#include "plane.h"

/*
 * The calls that pyfuse3 is told of, as an extended attribute is asked for: PRIVATE, the call and
 * what it is given, in hexadecimal. As unionfs/driver/operations.py has it.
 */
static const char private = '\1';

struct call {
    uint32_t number;
    uint32_t given, answered; /* bytes */
};

static const struct call calls[] = {
    {FS_IOC_GETFLAGS, 0, sizeof(int)},
    {FS_IOC_SETFLAGS, sizeof(int), 0},
    {FS_IOC_FSGETXATTR, 0, sizeof(struct fsxattr)},
    {FS_IOC_FSSETXATTR, sizeof(struct fsxattr), 0},
};

static const struct call *find_call(const struct request *request)
{
    const struct fuse_ioctl_in *in = BODY(request, struct fuse_ioctl_in);
    /*
     * With an argument it comes straight from a program: so it does before Linux 5.13, which does
     * not look who may (fs/ioctl.c, vfs_fileattr_set).
     */
    if (in == NULL || in->arg != 0 || in->in_size > request->size - sizeof(*in))
        return NULL;
    for (size_t at = 0; at < sizeof(calls) / sizeof(calls[0]); at++)
        if (calls[at].number == in->cmd && calls[at].given == in->in_size
            && calls[at].answered == in->out_size)
            return &calls[at];
    return NULL;
}

static enum verdict refuse(const struct request *request, int error)
{
    reply_error(request->header->unique, error);
    return ANSWERED;
}

static enum verdict translate_call(struct request *request, struct translation *room)
{
    const struct call *call = find_call(request);
    if (call == NULL)
        /* Of what is behind a union no other call may reach anything. */
        return refuse(request, ENOTTY);
    const struct fuse_ioctl_in *in = request->body;
    const unsigned char *given = (const unsigned char *)(in + 1);
    char *at = room->name;
    *at++ = private;
    at += sprintf(at, "%08x", call->number);
    for (uint32_t byte = 0; byte < call->given; byte++)
        at += sprintf(at, "%02x", given[byte]);
    room->header = *request->header;
    room->header.opcode = FUSE_GETXATTR;
    room->header.len = (uint32_t)(at + 1 - (char *)room);
    /* Of any size but 0, which would only ask how long it is. */
    room->body = (struct fuse_getxattr_in){.size = sizeof(struct fsxattr)};
    *request = (struct request){&room->header, &room->body, room->header.len - sizeof(room->header)};
    return FORWARD;
}

static enum verdict translate_attribute(const struct request *request)
{
    const struct fuse_getxattr_in *in = BODY(request, struct fuse_getxattr_in);
    bool is_private = in != NULL && request->size > sizeof(*in) && *(const char *)(in + 1) == private;
    /* As of any name without a namespace. */
    return is_private ? refuse(request, EOPNOTSUPP) : FORWARD;
}

/* A directory that the kernel opened by itself: libfuse tells Python of a handle, and no more. */
static enum verdict translate_directory(struct request *request)
{
    /* struct fuse_fsync_in begins with it as well. */
    if (request->size < sizeof(struct fuse_fsync_in))
        return refuse(request, EINVAL);
    ((struct fuse_read_in *)request->body)->fh = request->header->nodeid;
    return FORWARD;
}

enum verdict translate_request(struct request *request, struct translation *room)
{
    switch (request->header->opcode) {
    case FUSE_IOCTL:
        return translate_call(request, room);
    case FUSE_GETXATTR:
        return translate_attribute(request);
    case FUSE_READDIRPLUS:
    case FUSE_FSYNCDIR:
        return translate_directory(request);
    case TMPFILE:
        if (BODY(request, struct fuse_create_in) == NULL)
            return refuse(request, EINVAL);
        /* The same body; its name "/" is one that nothing else has. */
        ((struct fuse_in_header *)request->header)->opcode = FUSE_CREATE;
        return FORWARD;
    default:
        return FORWARD;
    }
}

ssize_t translate_reply(int fd, const struct iovec *parts, int count)
{
    struct fuse_ioctl_out out = {.result = 0};
    struct fuse_out_header header = *(const struct fuse_out_header *)parts[0].iov_base;
    header.len += (uint32_t)sizeof(out);
    struct iovec whole[3] = {{&header, sizeof(header)}, {&out, sizeof(out)}};
    if (count > 1)
        whole[2] = parts[1];
    return writev(fd, whole, count > 1 ? 3 : 2);
}
