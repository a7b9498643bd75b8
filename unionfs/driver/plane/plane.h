/*
 * The data plane: a layer between the kernel and libfuse. docs/dataplane.md tells how it sits
 * beneath pyfuse3 and why that is sound.
 *
 * One process serves one mount, so there is one plane, and its state is static in the files that
 * own it.
 */
#ifndef UNIONFS_PLANE_H
#define UNIONFS_PLANE_H

#include <fcntl.h>
#include <limits.h>

#include "wire.h"

/* Of an open's flags: what the kernel has done, or what would make our own reads and writes fail. */
#define NOT_PASSED_ON (O_CREAT | O_EXCL | O_APPEND | O_DIRECT | O_NOCTTY)

/* What a part of the plane did with a request. */
enum verdict {
    FORWARD,  /* it is for Python: libfuse gets it */
    ANSWERED, /* the reply has been written, or there is none */
};

/* channel.c: the descriptor of /dev/fuse, the threads that read it, and what libfuse sees of it */

/*
 * Start reading requests from KERNEL (a descriptor of /dev/fuse that becomes ours) with THREADS
 * threads. Requests are at most MOST bytes long. What libfuse is to read first is a request of ours,
 * SIZE bytes at BEGIN, whose reply nobody gets. Answers channel_ready(), or -1 with errno.
 */
int channel_start(int kernel, int threads, size_t most, const void *begin, size_t size);

/* The descriptor that is readable whenever a request waits for libfuse; -1 before channel_start. */
int channel_ready(void);

/* libfuse begins to read; once. */
void channel_begin(void);

/* Whether the mount is gone, so that nothing more comes. */
bool channel_ended(void);

/*
 * ONLY: whether others than root and we are refused what they ask for. DEBUG: requests that Python
 * does not see are shown on standard error, as libfuse does with the others.
 */
void channel_configure(bool only, bool debug);

/* fuse_custom_io's read: the next request for libfuse. ENODEV once the mount is gone. */
ssize_t channel_read(int fd, void *buffer, size_t size, void *data);

/* fuse_custom_io's writev: libfuse's reply or notification on its way to the kernel. */
ssize_t channel_write(int fd, struct iovec *parts, int count, void *data);

/* What Python may do for a request, so that the plane can answer it. As unionfs/mirror.py has it. */
enum lack {
    LACKS_NAMES,   /* a directory's */
    LACKS_LISTING, /* the same, and what is behind each */
    LACKS_PARENT,  /* to make a name: its directory in the upper */
    LACKS_AROUND,  /* to take a name away: the same */
    LACKS_UPPER,   /* to change a node: the same, and its content */
    LACKS_CONTENT,
};

/* The request that waits for libfuse first. */
struct waiting_request {
    enum lack lack;
    uint64_t node;
    char name[NAME_MAX + 1]; /* that it is about, or empty */
};

/* Answers whether there is one that the plane might be able to answer. */
bool channel_first(struct waiting_request *request);

/* Look at that request once more; if it has to, it waits for libfuse again, as the last one. */
void channel_again(void);

/* The descriptor of /dev/fuse, for its ioctls. */
int channel_device(void);

/* Reply to UNIQUE with ERROR (0 or a positive errno) and nothing else. */
void reply_error(uint64_t unique, int error);

/* Reply to REQUEST with ERROR; for handlers to return. */
static inline enum verdict answer(const struct request *request, int error)
{
    reply_error(request->header->unique, error);
    return ANSWERED;
}

/* Reply to UNIQUE with SIZE bytes; answers whether the kernel took it. */
bool reply_data(uint64_t unique, const void *data, size_t size);

/* Bytes of a file whose content the kernel is given before it asks for it. */
enum { STORED_MOST = 1 << 17 };

/* Give the kernel the first SIZE bytes of the content of NODE (FUSE_NOTIFY_STORE). */
void notify_store(uint64_t node, const void *data, size_t size);

/* What the kernel knows of the attributes of NODE counts no more (FUSE_NOTIFY_INVAL_INODE). */
void notify_changed(uint64_t node);

/* A thread's room for content that is on its way, and how much it is. */
struct scratch {
    char *memory;
    size_t size;
};

/* handles.c: open files, and which of them the kernel reads and writes by itself */

/*
 * From now on handle FD, which libfuse is about to give to the kernel, is a file of the UPPER or a
 * lower file. Returns 0, or -1 with errno.
 */
int handles_offer(int fd, bool upper);

/* Whether files of the upper are passed through, and lower ones, these from which size on. */
void handles_configure(bool upper, bool lower, int64_t lower_from);

/* FD is a handle of the plane's own, on a file of the UPPER or below. Returns 0, or -1 with errno. */
int handles_open(int fd, uint64_t node, bool upper);

/* The highest handle that there ever was; -1 before. */
int handles_highest(void);

/* Whether FD is a handle of the plane's own. */
bool handles_own(uint64_t fd);

/* What gets a descriptor, and whether it is open for writing. */
typedef void handles_taker(int fd, bool writable, void *data);

/* Handles of the plane's own on NODE are Python's from now on: TAKE gets each. */
void handles_give(uint64_t node, handles_taker *take, void *data);

/*
 * Handles of the plane's own on NODE are of the file that DESCRIPTOR is open for from now on, and
 * read that.
 */
void handles_rebind(uint64_t node, int descriptor);

/*
 * Whether what is written to the file of handle FD is there at once: not so what a map of it wrote,
 * which the kernel keeps until it is synced, unless the file is passed through.
 */
bool handles_write_through(uint64_t fd);

/* NODE is opened with FLAGS as REPLY says: add to it what the kernel may do itself. */
void handles_opened(uint64_t node, uint32_t flags, struct open_reply *reply);

/*
 * What handles_opened took for FD is given back: the kernel has closed it, or never got it. Answers
 * whether the descriptor is the plane's own, to be closed.
 */
bool handles_closed(uint64_t fd);

/* files.c: requests on open files that need no decision. BUFFER is the thread's. */
enum verdict files_handle(const struct request *request, struct scratch *scratch);

/* translate.c: what pyfuse3 does not know, as something that it knows */

/* Where a request is put that libfuse gets in the place of another. */
struct translation {
    struct fuse_in_header header;
    struct fuse_getxattr_in body;
    char name[80];
};

/* Let REQUEST be what libfuse gets, which may be in ROOM. */
enum verdict translate_request(struct request *request, struct translation *room);

/* Write libfuse's reply, which is no error, to a FUSE_IOCTL that was translated. As writev(2). */
ssize_t translate_reply(int fd, const struct iovec *parts, int count);

#endif
