#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "layers.h"

enum { INODE_BITS = 48, OVERFLOW_ID = 65534, LISTING_BYTES = 1 << 16 };

struct layer {
    int root;
    bool told;
    bool whiteout_files;
    uint64_t device;
    uint64_t space;
    uint8_t uuid[LAYERS_UUID];
};

static struct layer *layers;
static int layer_count;
static int upper_position = -1;
static bool owners_known;
static int space_fd = -1;

int layers_set(int position, int root, bool whiteout_files, uint64_t device, uint64_t space)
{
    if (position >= layer_count) {
        struct layer *larger = realloc(layers, (size_t)(position + 1) * sizeof(*layers));
        if (larger == NULL)
            return -1;
        layers = larger;
        layer_count = position + 1;
    }
    layers[position] = (struct layer){
        .root = root, .whiteout_files = whiteout_files, .device = device, .space = space};
    return 0;
}

void layers_set_told(int layer)
{
    layers[layer].told = true;
}

bool layers_told(int layer)
{
    return layers[layer].told;
}

void layers_set_uuid(int layer, const uint8_t *uuid)
{
    memcpy(layers[layer].uuid, uuid, LAYERS_UUID);
}

void layers_uuid(int layer, uint8_t *uuid)
{
    memcpy(uuid, layers[layer].uuid, LAYERS_UUID);
}

void layers_set_upper(int position)
{
    upper_position = position;
}

int layers_upper(void)
{
    return upper_position;
}

void layers_know_owners(bool all)
{
    owners_known = all;
}

void layers_set_space(int fd)
{
    space_fd = fd;
}

int layers_space(struct fuse_kstatfs *space)
{
    struct statvfs has;
    if (fstatvfs(space_fd, &has) != 0)
        return errno;
    *space = (struct fuse_kstatfs){
        .blocks = has.f_blocks,
        .bfree = has.f_bfree,
        .bavail = has.f_bavail,
        .files = has.f_files,
        .ffree = has.f_ffree,
        .bsize = (uint32_t)has.f_bsize,
        .namelen = NAME_MAX,
        .frsize = (uint32_t)has.f_frsize,
    };
    return 0;
}

static int open_beneath(int root, const char *path, uint64_t flags)
{
    struct open_how how = {
        .flags = flags | O_CLOEXEC | O_NOFOLLOW,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

/* Reading a layer is not to change its access times, where we may have it so. */
static int open_quietly(int directory, const char *path, uint64_t flags)
{
    int fd = open_beneath(directory, path, flags | O_NOATIME);
    if (fd < 0 && errno == EPERM)
        fd = open_beneath(directory, path, flags);
    return fd;
}

/* The root that the names of LAYER are beneath; -1 with errno where they are told. */
static int root_of_names(int layer)
{
    if (layers[layer].told) {
        errno = EREMOTE;
        return -1;
    }
    return layers[layer].root;
}

int layers_directory(const struct source *source)
{
    int root = root_of_names(source->layer);
    return root < 0 ? -1 : open_beneath(root, source->path, O_PATH | O_DIRECTORY);
}

int layers_open_listing(const struct source *source)
{
    int root = root_of_names(source->layer);
    return root < 0 ? -1 : open_quietly(root, source->path, O_RDONLY | O_DIRECTORY);
}

int layers_open_upper_listing(int directory_fd)
{
    return open_quietly(directory_fd, ".", O_RDONLY | O_DIRECTORY);
}

/* Listing */

struct linux_dirent64 {
    uint64_t d_ino;
    int64_t d_off;
    unsigned short d_reclen;
    unsigned char d_type;
    char d_name[];
};

struct list {
    struct found *items;
    size_t count, room;
};

static bool append(struct list *list, const char *name, size_t length, uint8_t type)
{
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 32;
        struct found *larger = realloc(list->items, room * sizeof(*larger));
        if (larger == NULL)
            return false;
        list->items = larger;
        list->room = room;
    }
    char *copy = strndup(name, length);
    if (copy == NULL)
        return false;
    list->items[list->count++] = (struct found){copy, length, type};
    return true;
}

void layers_free(struct found *found, size_t count)
{
    for (size_t at = 0; at < count; at++)
        free(found[at].name);
    free(found);
}

/* The type of what readdir(3) does not tell all about: whether it is a whiteout, and what it is. */
static uint8_t look_closer(int directory, const char *name, uint8_t type)
{
    struct stat status;
    if (type != DT_CHR && type != DT_UNKNOWN)
        return type;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return DT_UNKNOWN;
    if (S_ISCHR(status.st_mode) && status.st_rdev == 0)
        return DT_WHT;
    return IFTODT(status.st_mode);
}

static bool add_entry(const struct layer *layer, int directory, struct list *names,
                      struct list *hidden, const struct linux_dirent64 *entry)
{
    static const char prefix[] = ".wh.", reserved[] = ".wh..wh.";
    const char *name = entry->d_name;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return true;
    if (layer->whiteout_files && strncmp(name, prefix, sizeof(prefix) - 1) == 0) {
        const char *of = name + sizeof(prefix) - 1;
        if (*of == '\0' || strncmp(name, reserved, sizeof(reserved) - 1) == 0)
            return true;
        return append(hidden, of, strlen(of), DT_WHT);
    }
    return append(names, name, strlen(name), look_closer(directory, name, entry->d_type));
}

static bool read_names(const struct layer *layer, int directory, struct list *names,
                       struct list *hidden)
{
    char *buffer = malloc(LISTING_BYTES);
    bool good = buffer != NULL;
    while (good) {
        long size = syscall(SYS_getdents64, directory, buffer, LISTING_BYTES);
        if (size <= 0) {
            good = size == 0;
            break;
        }
        for (long at = 0; good && at < size;) {
            const struct linux_dirent64 *entry = (const void *)(buffer + at);
            good = add_entry(layer, directory, names, hidden, entry);
            at += entry->d_reclen;
        }
    }
    free(buffer);
    return good;
}

struct found *layers_list(int layer, int directory_fd, size_t *count)
{
    struct list names = {0}, hidden = {0};
    errno = ENOMEM;
    bool good = read_names(&layers[layer], directory_fd, &names, &hidden);
    for (size_t at = 0; good && at < hidden.count; at++)
        good = append(&names, hidden.items[at].name, hidden.items[at].length, DT_WHT);
    int error = errno;
    if (good && layer == upper_position && hidden.count > 0) {
        good = false; /* Python turns such files into other marks when names get entries */
        error = EREMOTE;
    }
    layers_free(hidden.items, hidden.count);
    if (!good) {
        layers_free(names.items, names.count);
        errno = error;
        return NULL;
    }
    *count = names.count;
    /* An empty directory has an array too, so that NULL only means an error. */
    return names.items != NULL ? names.items : calloc(1, sizeof(struct found));
}

int layers_type(int directory_fd, const char *name, uint8_t *type)
{
    struct stat status;
    *type = LAYERS_NOTHING;
    if (fstatat(directory_fd, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : -1;
    bool whiteout = S_ISCHR(status.st_mode) && status.st_rdev == 0;
    *type = whiteout ? DT_WHT : IFTODT(status.st_mode);
    return 0;
}

bool layers_hides(int layer, int directory_fd, const char *name)
{
    char hiding[NAME_MAX + sizeof(".wh.")];
    struct stat status;
    if (!layers[layer].whiteout_files)
        return false;
    int length = snprintf(hiding, sizeof(hiding), ".wh.%s", name);
    if (length > NAME_MAX)
        return false; /* no layer has such a name */
    return fstatat(directory_fd, hiding, &status, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

/* Attributes */

static uint64_t number_of(const struct layer *layer, uint64_t device, uint64_t inode)
{
    uint64_t number = layer->space << INODE_BITS | inode;
    if (device != layer->device || inode >> INODE_BITS || number <= FUSE_ROOT_ID)
        return 0;
    return number;
}

static bool is_plain(const struct stat *status, uint8_t type)
{
    if (IFTODT(status->st_mode) != type || (type != DT_DIR && status->st_nlink != 1))
        return false;
    return owners_known || (status->st_uid != OVERFLOW_ID && status->st_gid != OVERFLOW_ID);
}

void layers_told_status(const struct fuse_attr *told, struct stat *status)
{
    status->st_mode = told->mode;
    status->st_uid = told->uid;
    status->st_gid = told->gid;
    status->st_atim = (struct timespec){(time_t)told->atime, told->atimensec};
    status->st_mtim = (struct timespec){(time_t)told->mtime, told->mtimensec};
}

uint64_t layers_number(int layer, uint64_t inode)
{
    return number_of(&layers[layer], layers[layer].device, inode);
}

/* Whether it is a file of holes, or a metacopy, whose blocks are elsewhere. */
static bool has_no_blocks(const struct stat *status)
{
    return S_ISREG(status->st_mode) && status->st_blocks == 0 && status->st_size > 0;
}

/* The kernel's new_encode_dev. */
static uint32_t wire_device(dev_t device)
{
    unsigned higher = major(device), lower = minor(device);
    return (lower & 0xff) | higher << 8 | (lower & ~0xffu) << 12;
}

int layers_stat(int layer, int directory_fd, const char *name, uint8_t type,
                uint64_t *number, struct fuse_attr *attributes)
{
    struct stat status;
    if (fstatat(directory_fd, name, &status, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0)
        return -1;
    *number = number_of(&layers[layer], status.st_dev, status.st_ino);
    *attributes = (struct fuse_attr){
        .ino = *number,
        .size = (uint64_t)status.st_size,
        .blocks = (uint64_t)status.st_blocks,
        .atime = (uint64_t)status.st_atim.tv_sec,
        .mtime = (uint64_t)status.st_mtim.tv_sec,
        .ctime = (uint64_t)status.st_ctim.tv_sec,
        .atimensec = (uint32_t)status.st_atim.tv_nsec,
        .mtimensec = (uint32_t)status.st_mtim.tv_nsec,
        .ctimensec = (uint32_t)status.st_ctim.tv_nsec,
        .mode = status.st_mode,
        .nlink = (uint32_t)status.st_nlink,
        .uid = status.st_uid,
        .gid = status.st_gid,
        .rdev = wire_device(status.st_rdev),
        .blksize = (uint32_t)status.st_blksize,
    };
    if (*number == 0 || !is_plain(&status, type))
        return 1;
    /* In the upper the marks are looked at in any case. */
    return layer != upper_position && has_no_blocks(&status)
                   && layers_has_marks(layer, directory_fd, name, false);
}

/* Marks */

/* Two of a directory tell only of inode numbers, which come from below in any case. */
static bool is_mark(const char *name, bool is_directory)
{
    static const char *const prefixes[] = {"trusted.overlay.", "user.overlay.",
                                           "user.fuseoverlayfs."};
    for (size_t at = 0; at < sizeof(prefixes) / sizeof(prefixes[0]); at++) {
        size_t length = strlen(prefixes[at]);
        if (strncmp(name, prefixes[at], length) == 0)
            return !is_directory
                   || (strcmp(name + length, "impure") != 0 && strcmp(name + length, "origin") != 0);
    }
    return false;
}

#ifndef SYS_listxattrat
#define SYS_listxattrat 465 /* Linux 6.13, the same number everywhere */
#endif

/* As llistxattr(2), of NAME in DIRECTORY_FD. */
static ssize_t list_attributes(int directory_fd, const char *name, char *list, size_t size)
{
    static atomic_bool unknown;
    char path[sizeof("/proc/self/fd//") + 3 * sizeof(int) + NAME_MAX];
    if (!unknown) {
        long listed =
            syscall(SYS_listxattrat, directory_fd, name, AT_SYMLINK_NOFOLLOW, list, size);
        /* A container's filter that does not know it may say EPERM. */
        if (listed >= 0 || (errno != ENOSYS && errno != EPERM))
            return listed;
        unknown = true;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", directory_fd, name);
    return llistxattr(path, list, size);
}

bool layers_has_marks(int layer, int directory_fd, const char *name, bool is_directory)
{
    char names[1024], inside[NAME_MAX + sizeof("/.wh..wh..opq")];
    struct stat status;
    ssize_t size = list_attributes(directory_fd, name, names, sizeof(names));
    if (size < 0 && errno != EOPNOTSUPP)
        return true;
    for (const char *at = names; at < names + size; at += strlen(at) + 1)
        if (is_mark(at, is_directory))
            return true;
    if (!is_directory || !layers[layer].whiteout_files)
        return false;
    snprintf(inside, sizeof(inside), "%s/.wh..wh..opq", name);
    return fstatat(directory_fd, inside, &status, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

/* Content */

static bool has_content_elsewhere(int fd)
{
    return flistxattr(fd, NULL, 0) > 0
           && (fgetxattr(fd, "trusted.overlay.metacopy", NULL, 0) >= 0
               || fgetxattr(fd, "user.overlay.metacopy", NULL, 0) >= 0);
}

bool layers_is(int layer, int fd, uint64_t number)
{
    struct stat status;
    return fstat(fd, &status) == 0
           && number_of(&layers[layer], status.st_dev, status.st_ino) == number;
}

/* Open NAME of SOURCE by OPEN, which is one of the above. */
static int open_name(const struct source *source, const char *name, uint64_t flags,
                     int (*open)(int, const char *, uint64_t))
{
    char *path;
    int root = root_of_names(source->layer);
    if (root < 0)
        return -1;
    if (asprintf(&path, "%s/%s", source->path, name) < 0) {
        errno = ENOMEM;
        return -1;
    }
    int fd = open(root, path, flags);
    free(path);
    return fd;
}

int layers_name(const struct source *source, const char *name)
{
    return open_name(source, name, O_PATH, open_beneath);
}

int layers_content(int layer, const char *path, uint64_t size)
{
    struct stat status;
    int fd = open_quietly(layers[layer].root, path, O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return -1;
    if (fstat(fd, &status) == 0 && (uint64_t)status.st_size == size)
        return fd;
    close(fd);
    errno = ESTALE;
    return -1;
}

int layers_open(const struct source *source, const char *name, uint64_t number)
{
    int fd = open_name(source, name, O_RDONLY | O_NONBLOCK, open_quietly);
    if (fd < 0)
        return -1;
    if (layers_is(source->layer, fd, number) && !has_content_elsewhere(fd))
        return fd;
    close(fd);
    errno = EREMOTE;
    return -1;
}
