#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "plane.h"

/* Handles of open files are descriptors, so that what these requests ask for is one system call. */

static void close_pipe(int *ends)
{
    close(ends[0]);
    close(ends[1]);
    ends[0] = ends[1] = -1;
}

/* A pipe of the calling thread, empty; false if there can't be one. */
static bool open_pipe(int *ends)
{
    if (ends[0] >= 0)
        return true;
    if (pipe2(ends, O_CLOEXEC) != 0) {
        ends[0] = ends[1] = -1;
        return false;
    }
    if (fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) == 1 << 20)
        return true;
    close_pipe(ends);
    return false;
}

enum { SPLICED_LEAST = 1 << 16, SPLICED_MOST = (1 << 20) - (1 << 16) };

/*
 * Reply with pages of the file's own, which are copied once less. (They are not moved: its filesystem
 * would have to read them again.) False if that can't be: then nothing was replied.
 */
static bool splice_file(const struct request *request, const struct fuse_read_in *in)
{
    static __thread int ends[2] = {-1, -1};
    struct stat status;
    if (in->size < SPLICED_LEAST || in->size > SPLICED_MOST || fstat((int)in->fh, &status) != 0
        || (uint64_t)status.st_size < in->offset + in->size || !open_pipe(ends))
        return false;
    struct fuse_out_header header = {.len = (uint32_t)sizeof(header) + in->size,
                                     .unique = request->header->unique};
    off_t offset = (off_t)in->offset;
    if (write(ends[1], &header, sizeof(header)) == sizeof(header)
        && splice((int)in->fh, &offset, ends[1], NULL, in->size, SPLICE_F_NONBLOCK) == in->size
        && splice(ends[0], NULL, channel_device(), NULL, header.len, 0) == header.len)
        return true;
    /* What is in the pipe goes with it. */
    close_pipe(ends);
    return false;
}

static enum verdict read_file(const struct request *request, struct scratch *scratch)
{
    const struct fuse_read_in *in = BODY(request, struct fuse_read_in);
    if (in == NULL || in->size > scratch->size)
        return answer(request, EINVAL);
    if (splice_file(request, in))
        return ANSWERED;
    ssize_t got = pread((int)in->fh, scratch->memory, in->size, (off_t)in->offset);
    if (got < 0)
        return answer(request, errno);
    reply_data(request->header->unique, scratch->memory, (size_t)got);
    return ANSWERED;
}

static enum verdict write_file(const struct request *request)
{
    const struct fuse_write_in *in = BODY(request, struct fuse_write_in);
    if (in == NULL || in->size > request->size - sizeof(*in))
        return answer(request, EINVAL);
    ssize_t done = pwrite((int)in->fh, in + 1, in->size, (off_t)in->offset);
    if (done < 0)
        return answer(request, errno);
    struct fuse_write_out out = {.size = (uint32_t)done};
    reply_data(request->header->unique, &out, sizeof(out));
    return ANSWERED;
}

/* Whether a file of the upper has one of FLAGS, as lsattr(1) shows them, in its mark. */
static bool is_protected(int fd, const char *flags)
{
    static const char *const marks[] = {"trusted.overlay.protattr", "user.overlay.protattr"};
    for (size_t at = 0; at < sizeof(marks) / sizeof(marks[0]); at++) {
        char value[3] = "";
        if (fgetxattr(fd, marks[at], value, sizeof(value) - 1) > 0)
            return strpbrk(value, flags) != NULL;
    }
    return false;
}

static enum verdict allocate(const struct request *request)
{
    const struct fuse_fallocate_in *in = BODY(request, struct fuse_fallocate_in);
    if (in == NULL)
        return answer(request, EINVAL);
    bool appends = (in->mode & ~(uint32_t)FALLOC_FL_KEEP_SIZE) == 0;
    if (is_protected((int)in->fh, appends ? "i" : "ia"))
        return answer(request, EPERM);
    int failed = fallocate((int)in->fh, (int)in->mode, (off_t)in->offset, (off_t)in->length);
    int error = failed ? errno : 0;
    /* What was found on a full disk stays allocated, and counts in the size. */
    if (error == ENOSPC || error == EDQUOT)
        notify_changed(request->header->nodeid);
    return answer(request, error);
}

/* As lseek(2) has it for a file without holes. */
static off_t seek_without_holes(const struct fuse_lseek_in *in)
{
    struct stat status;
    if (fstat((int)in->fh, &status) != 0)
        return -1;
    if ((off_t)in->offset >= status.st_size) {
        errno = ENXIO;
        return -1;
    }
    return in->whence == SEEK_DATA ? (off_t)in->offset : status.st_size;
}

static enum verdict seek(const struct request *request)
{
    const struct fuse_lseek_in *in = BODY(request, struct fuse_lseek_in);
    if (in == NULL)
        return answer(request, EINVAL);
    /* Nothing reads at the descriptor's own offset, so that it may move. */
    off_t found = handles_write_through(in->fh)
                      ? lseek((int)in->fh, (off_t)in->offset, (int)in->whence)
                      : seek_without_holes(in);
    if (found < 0)
        return answer(request, errno);
    struct fuse_lseek_out out = {.offset = (uint64_t)found};
    reply_data(request->header->unique, &out, sizeof(out));
    return ANSWERED;
}

/* So that a long copy does not keep others waiting; the rest is asked for again. */
enum { COPIED_MOST = 1 << 26 };

static enum verdict copy_range(const struct request *request)
{
    const struct fuse_copy_file_range_in *in = BODY(request, struct fuse_copy_file_range_in);
    if (in == NULL)
        return answer(request, EINVAL);
    if (is_protected((int)in->fh_out, "i"))
        return answer(request, EPERM);
    off_t from = (off_t)in->off_in, to = (off_t)in->off_out;
    size_t length = in->len < COPIED_MOST ? in->len : COPIED_MOST;
    ssize_t done = copy_file_range((int)in->fh_in, &from, (int)in->fh_out, &to, length,
                                   (unsigned)in->flags);
    if (done < 0)
        /* The kernel copies by itself then; ENOSYS would be for all files. */
        return answer(request, errno == EXDEV || errno == ENOSYS ? EOPNOTSUPP : errno);
    struct fuse_write_out out = {.size = (uint32_t)done};
    uint64_t wide = (uint64_t)done;
    if (request->header->opcode == FUSE_COPY_FILE_RANGE)
        reply_data(request->header->unique, &out, sizeof(out));
    else
        reply_data(request->header->unique, &wide, sizeof(wide));
    return ANSWERED;
}

static enum verdict release(const struct request *request)
{
    const struct fuse_release_in *in = BODY(request, struct fuse_release_in);
    if (in == NULL)
        return answer(request, EINVAL);
    if (!handles_closed(in->fh))
        return FORWARD;
    close((int)in->fh);
    return answer(request, 0);
}

enum verdict files_handle(const struct request *request, struct scratch *scratch)
{
    switch (request->header->opcode) {
    case FUSE_READ:
        return read_file(request, scratch);
    case FUSE_WRITE:
        return write_file(request);
    case FUSE_FALLOCATE:
        return allocate(request);
    case FUSE_LSEEK:
        return seek(request);
    case FUSE_COPY_FILE_RANGE:
    case COPY_FILE_RANGE_64:
        return copy_range(request);
    case FUSE_RELEASE:
        return release(request);
    default:
        return FORWARD;
    }
}
