/*
 * The data plane between a kernel and a Python that are played here: requests drawn from dice, and
 * answers and calls as unionfs/driver/plane/mirror.py would make them, or worse.
 *
 *     harness DIRECTORY SEED STEPS THREADS
 *
 * DIRECTORY has the layers "0" (base) and "1", the upper "2", and room for files; all that is done
 * to files is done in it. Everything that is drawn depends on SEED alone. Ends with status 0, or a message and
 * abort(3). Compiled with -DFUZZER, libFuzzer's input takes the place of the dice, and DIRECTORY is
 * PLANE_DIRECTORY of the environment. Linked with --wrap=read and --wrap=splice.
 *
 * What is checked: no memory is misused (the sanitizers tell), each request gets exactly one reply,
 * replies are well-formed, and the plane ends when the kernel goes.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sanitizer/asan_interface.h>

#include "changes.h"
#include "copyup.h"
#include "names.h"

enum {
    MOST = 257 * 4096,
    AGAIN = 600, /* as unionfs/driver/plane/__init__.py has it */
    LAYERS = 2, /* and the upper above them */
    TOLD_LAYER = 1, /* in some games */
    TOLD_MOST = 64,
    NODES = 200,
    HANDLES = 1000,
    BATCH = 6,
    PATIENCE_MS = 60000,
};

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Dice */

static const uint8_t *dice; /* libFuzzer's, if not NULL */
static size_t dice_left;
static uint64_t dice_state;

static uint64_t draw_bits(void)
{
    if (dice != NULL) {
        uint64_t value = 0;
        for (int at = 0; at < 2 && dice_left > 0; at++, dice_left--)
            value = value << 8 | *dice++;
        return value;
    }
    /* splitmix64 */
    uint64_t value = dice_state += 0x9e3779b97f4a7c15u;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

/* A number below COUNT. */
static size_t draw(size_t count)
{
    return draw_bits() % count;
}

static bool chance(size_t one_in)
{
    return draw(one_in) == 0;
}

/* A number as it might be in a request, or not. */
static uint64_t draw_number(void)
{
    switch (draw(4)) {
    case 0:
        return draw(8);
    case 1:
        return ((uint64_t)1 << draw(64)) - draw(2);
    case 2:
        return draw(1 << 16);
    default:
        return draw_bits() << 48 ^ draw_bits() << 24 ^ draw_bits();
    }
}

static const char *const NAMES[] = {
    "file", "dir",  "link",   "twice", "hole",  "fifo", "gone", ".wh.gone", "other", "sub",
    "new",  "deep", "opaque", "",      ".",     "..",   "big",  "\xff\xfe", ".wh.",  "in",
    "own",  "a",    "b",      "c",     "p",    "q",    "r",    "s",
};

/* A name with its zero byte; answers its size with that. No slash: what is outside stays so. */
static size_t draw_name(char *name)
{
    size_t length = 0;
    if (chance(8)) {
        static const uint8_t lengths[] = {1, 2, 20, 254, 255};
        length = chance(8) ? 256 + draw(50) : lengths[draw(sizeof(lengths))];
        for (size_t at = 0; at < length; at++) {
            char byte = (char)draw(256);
            name[at] = byte == '\0' || byte == '/' ? 'x' : byte;
        }
    } else {
        const char *known = NAMES[draw(sizeof(NAMES) / sizeof(NAMES[0]))];
        length = strlen(known);
        memcpy(name, known, length);
    }
    name[length] = '\0';
    return length + 1;
}

/* What the kernel knows */

struct seen {
    uint64_t number;
    bool is_directory;
};

static struct seen known[NODES];
static size_t known_count;
static uint64_t handles[HANDLES];
static size_t handle_count;

static void learn_node(uint64_t number, uint32_t mode)
{
    struct seen seen = {number, S_ISDIR(mode)};
    for (size_t at = 0; at < known_count; at++)
        if (known[at].number == number)
            return;
    if (known_count < NODES)
        known[known_count++] = seen;
    else
        known[1 + draw(NODES - 1)] = seen; /* the first is the root */
}

static void learn_handle(uint64_t handle)
{
    if (handle_count < HANDLES)
        handles[handle_count++] = handle;
}

static uint64_t draw_node(void)
{
    return chance(20) || known_count == 0 ? draw_number() : known[draw(known_count)].number;
}

static uint64_t draw_directory(void)
{
    for (int tries = 0; tries < 10; tries++) {
        const struct seen *seen = &known[draw(known_count)];
        if (seen->is_directory)
            return seen->number;
    }
    return FUSE_ROOT_ID;
}

static uint64_t draw_handle(void)
{
    return chance(20) || handle_count == 0 ? draw_number() : handles[draw(handle_count)];
}

/* What Python has */

static int directory_fd, upper_fd, told_fd;
static uint64_t python_files[HANDLES];
static size_t python_file_count;
static uint64_t python_number = (uint64_t)1 << 40;

static void take_file(int fd, bool writable, void *data)
{
    (void)writable, (void)data;
    CHECK(python_file_count < HANDLES);
    python_files[python_file_count++] = (uint64_t)fd;
}

/* Take a node over; answers the kernel's references to it. */
static uint64_t adopt(uint64_t number)
{
    int fd, layer;
    uint64_t references = names_adopt(number, take_file, NULL, &fd, &layer);
    if (fd >= 0)
        close(fd);
    return references;
}

static void close_file(uint64_t fd)
{
    for (size_t at = 0; at < python_file_count; at++) {
        if (python_files[at] == fd) {
            python_files[at] = python_files[--python_file_count];
            close((int)fd);
            return;
        }
    }
}

/* Where directories that Python has taken over are in the layers. */
static struct {
    uint64_t number;
    char path[PATH_MAX];
} places[NODES];
static size_t place_count;

/* Where a directory is in the layers, if Python knows, or can ask. */
static bool path_of(uint64_t number, char *path, size_t room)
{
    struct whereabouts found;
    if (number == FUSE_ROOT_ID)
        return snprintf(path, room, ".") > 0;
    for (size_t at = 0; at < place_count; at++)
        if (places[at].number == number)
            return snprintf(path, room, "%s", places[at].path) > 0;
    if (!names_where(number, &found))
        return false;
    CHECK(found.count > 0 && found.length > 0 && strlen(found.name) == found.length);
    free(found.layers);
    char above[PATH_MAX];
    if (!path_of(found.parent, above, sizeof(above)))
        return false;
    int size = strcmp(above, ".") == 0 ? snprintf(path, room, "%s", found.name)
                                       : snprintf(path, room, "%s/%s", above, found.name);
    return (size_t)size < room;
}

static int open_upper(const char *path)
{
    return openat(upper_fd, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

struct questions {
    size_t count;
    char names[32][NAME_MAX + 1];
};

static void note_question(const struct question *question, void *data)
{
    struct questions *asked = data;
    CHECK(question->length <= NAME_MAX);
    if (asked->count < 32) {
        char *name = asked->names[asked->count++];
        memcpy(name, question->name, question->length);
        name[question->length] = '\0';
    }
}

/* Whether a directory is in another one, or is that: the kernel moves none into itself. */
static bool is_inside(uint64_t number, uint64_t other)
{
    pthread_mutex_lock(&table_lock);
    const struct node *node = table_find(number);
    while (node != NULL && node->number != other)
        node = node->child == NULL ? NULL : node->child->directory->node;
    pthread_mutex_unlock(&table_lock);
    return node != NULL;
}

static void put_name(uint64_t parent, const char *name)
{
    struct fuse_attr attributes = {.ino = ++python_number, .mode = S_IFDIR | 0755, .nlink = 1};
    uint8_t type = chance(2) ? DT_DIR : DT_REG;
    uint64_t number = chance(4) ? draw_node() : python_number;
    if (number == 0 || is_inside(parent, number))
        number = python_number;
    adopt(number); /* what Python tells of is its own */
    names_put(parent, name, strlen(name), number, type, draw(3));
    if (type == DT_DIR && chance(2))
        names_describe(number, &attributes);
}

static void answer_questions(uint64_t number, const struct questions *asked)
{
    for (size_t at = 0; at < asked->count; at++) {
        if (chance(3))
            names_remove(number, asked->names[at], strlen(asked->names[at]));
        else if (chance(2))
            put_name(number, asked->names[at]);
    }
}

/* Turn the file STATUS of DIRECTORY_FD, called NAME below PATH, into what might be told of it. */
static struct told_name tell_name(int directory_fd, const char *path, const char *name,
                                  const struct stat *status)
{
    char text[PATH_MAX + NAME_MAX + 2] = "";
    struct told_name told = {
        .type = IFTODT(status->st_mode),
        .plain = !chance(6),
        .bare = chance(2),
        .attributes = {.ino = chance(20) ? draw_number() : status->st_ino,
                       .size = (uint64_t)status->st_size,
                       .mode = status->st_mode,
                       .nlink = 1},
    };
    bool hides = strncmp(name, ".wh.", 4) == 0 && name[4] != '\0';
    if (hides || (S_ISCHR(status->st_mode) && status->st_rdev == 0))
        told.type = DT_WHT;
    told.name = strdup(hides ? name + 4 : name);
    if (S_ISREG(status->st_mode) && chance(2))
        snprintf(text, sizeof(text), "%s/%s", path, chance(8) ? "absent" : name);
    else if (S_ISLNK(status->st_mode))
        CHECK(readlinkat(directory_fd, name, text, sizeof(text) - 1) >= 0);
    if (text[0] != '\0')
        told.text = strdup(text);
    return told;
}

/* All names of directory PATH of the layer whose names are told. */
static struct told *tell(const char *path)
{
    struct told *told = told_new(TOLD_MOST);
    struct stat status;
    int fd = openat(told_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    told->count = 0;
    while (listing != NULL && told->count < TOLD_MOST && (entry = readdir(listing)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0
            && fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0)
            told->names[told->count++] = tell_name(fd, path, entry->d_name, &status);
    if (listing != NULL)
        closedir(listing);
    told_sort(told);
    return told;
}

/* Let the plane know a directory; answers whether it did not before. */
static bool fill(uint64_t number)
{
    char path[PATH_MAX];
    struct questions asked = {0};
    if (!path_of(number, path, sizeof(path)))
        return false;
    uint64_t references = adopt(number);
    if (references > 0 && place_count < NODES) {
        places[place_count].number = number;
        strcpy(places[place_count++].path, path);
    }
    size_t count = draw(LAYERS + 1);
    struct source *sources = calloc(LAYERS, sizeof(*sources));
    for (size_t at = 0; at < count; at++) {
        int layer = (int)(LAYERS - 1 - at);
        sources[at] = (struct source){.layer = layer, .fd = -1, .path = strdup(path)};
        if (layers_told(layer))
            sources[at].told = tell(path);
    }
    int fd = chance(4) && count > 0 ? -1 : open_upper(path);
    if (names_fill(number, FUSE_ROOT_ID, references, sources, count, fd, note_question, &asked) != 0)
        return false;
    answer_questions(number, &asked);
    return true;
}

static int open_any(void)
{
    char name[20];
    snprintf(name, sizeof(name), "own%zu", draw(4));
    return openat(directory_fd, name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
}

static void reply_with(uint64_t unique, int error, const void *data, size_t size)
{
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof(header) + size), .error = -error, .unique = unique};
    /* libfuse's memory: what is not its reply's is not to be read. */
    char *copy = malloc(size);
    if (size != 0)
        memcpy(copy, data, size);
    struct iovec parts[2] = {{&header, sizeof(header)}, {copy, size}};
    ssize_t written = channel_write(-1, parts, size ? 2 : 1, NULL);
    CHECK(written == (ssize_t)header.len);
    free(copy);
}

static void free_changes(void)
{
    struct change *change = names_changes();
    while (change != NULL) {
        struct change *next = change->next;
        CHECK(change->length > 0 && change->length <= NAME_MAX);
        free(change);
        change = next;
    }
}

/* Tell of the content of a file, and of others beside it. Answers whether it was not known. */
static bool trust(uint64_t number)
{
    struct whereabouts place;
    char *names[8];
    if (!names_where(number, &place))
        return false;
    free(place.layers);
    place.name[place.length] = '\0';
    size_t count = nodes_untrusted(number, draw_number(), names, draw(8));
    for (size_t at = 0; at < count; at++) {
        nodes_trust(place.parent, names[at], names[at]);
        free(names[at]);
    }
    return nodes_trust(place.parent, place.name, chance(4) ? "absent" : "other/in");
}

/* What mirror.py and operations.py do with a request that the plane left to them. */
static void answer_as_python(const struct fuse_in_header *header)
{
    static const int errors[] = {ENOENT, EIO, ENOSYS, ESTALE, EACCES, 511};
    struct {
        struct fuse_entry_out entry;
        struct open_reply open;
    } created = {.entry = {.nodeid = ++python_number, .attr = {.mode = S_IFREG | 0644}}};
    struct questions asked = {0};
    int fd;
    free_changes();
    switch (header->opcode) {
    case FUSE_FORGET:
        if (header->len >= sizeof(*header) + sizeof(struct fuse_forget_in))
            names_forget(header->nodeid, ((const struct fuse_forget_in *)(header + 1))->nlookup);
        return;
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
    case FUSE_NOTIFY_REPLY:
        return;
    case FUSE_RELEASE:
        close_file(((const struct fuse_release_in *)(header + 1))->fh);
        reply_with(header->unique, 0, NULL, 0);
        return;
    case FUSE_LOOKUP:
        if (fill(header->nodeid)) {
            reply_with(header->unique, AGAIN, NULL, 0);
            return;
        }
        if (chance(6)) {
            reply_with(header->unique, 0, &created.entry, sizeof(created.entry));
            return;
        }
        break;
    case FUSE_READDIRPLUS:
        if (fill(header->nodeid)) {
            reply_with(header->unique, AGAIN, NULL, 0);
            return;
        }
        names_unknown(header->nodeid, note_question, &asked);
        answer_questions(header->nodeid, &asked);
        if (asked.count > 0) {
            reply_with(header->unique, AGAIN, NULL, 0);
            return;
        }
        break;
    case FUSE_OPEN:
    case FUSE_CREATE:
        if (header->opcode == FUSE_OPEN && !nodes_is_trusted(header->nodeid)
            && trust(header->nodeid)) {
            reply_with(header->unique, AGAIN, NULL, 0);
            return;
        }
        adopt(header->nodeid);
        fd = python_file_count < HANDLES && !chance(4) ? open_any() : -1;
        if (fd < 0)
            break;
        take_file(fd, true, NULL);
        created.open.fh = (uint64_t)fd;
        CHECK(handles_offer(fd, chance(2)) == 0);
        if (header->opcode == FUSE_OPEN)
            reply_with(header->unique, 0, &created.open, sizeof(created.open));
        else
            reply_with(header->unique, 0, &created, sizeof(created));
        return;
    default:
        break;
    }
    reply_with(header->unique, errors[draw(sizeof(errors) / sizeof(errors[0]))], NULL, 0);
}

/* What Python says unasked; of names only if no request is on its way, as the kernel sees to it. */
static void speak_as_python(bool of_names)
{
    char name[512], path[PATH_MAX];
    uint64_t number = draw_node();
    if (draw_name(name) == 1)
        strcpy(name, "unnamed");
    switch (draw(of_names ? 5 : 3)) {
    case 0:
        adopt(number);
        break;
    case 1:
        names_refer(number);
        break;
    case 2:
        if (path_of(number, path, sizeof(path)) && adopt(number) > 0) {
            int fd = open_upper(path);
            if (fd >= 0)
                names_raised(number, fd);
        }
        break;
    case 3:
        names_remove(number, name, strlen(name));
        break;
    default:
        put_name(number, name);
    }
}

/* Requests */

/*
 * What bodies consist of: (h)andle, (n)ode, (o)ffset and (q)uad of 8 bytes; (s)ize, (f)lags, (c)all
 * of ioctl(2), flags for (W)riting and (w)ord of 4; (N)ame; (D)ata; (F)orgotten nodes after their count.
 */
static const struct {
    uint32_t opcode;
    const char *body;
} LAYOUTS[] = {
    {FUSE_LOOKUP, "/N"},
    {FUSE_LOOKUP, "/N"},
    {FUSE_LOOKUP, "/N"},
    {FUSE_FORGET, "k"},
    {FUSE_BATCH_FORGET, "F"},
    {FUSE_GETATTR, "fwh"},
    {FUSE_SETATTR, "fwhoqqqqwwwwwwww"},
    {FUSE_READLINK, ""},
    {FUSE_SYMLINK, "/NN"},
    {FUSE_MKNOD, "/wwwwN"},
    {FUSE_MKDIR, "/wwN"},
    {FUSE_UNLINK, "/N"},
    {FUSE_RMDIR, "/N"},
    {FUSE_RENAME, "/nNN"},
    {FUSE_LINK, "/nN"},
    {FUSE_OPEN, "fw"},
    {FUSE_OPEN, "fw"},
    {FUSE_OPEN, "Ww"},
    {FUSE_OPEN, "Ww"},
    {FUSE_OPEN, "Ww"},
    {FUSE_READ, "hosfqfw"},
    {FUSE_WRITE, "hosfqfwD"},
    {FUSE_STATFS, ""},
    {FUSE_RELEASE, "hffq"},
    {FUSE_FSYNC, "hfw"},
    {FUSE_SETXATTR, "sfND"},
    {FUSE_GETXATTR, "swN"},
    {FUSE_LISTXATTR, "sw"},
    {FUSE_REMOVEXATTR, "N"},
    {FUSE_FLUSH, "hwwq"},
    {FUSE_OPENDIR, "/fw"},
    {FUSE_OPENDIR, "/fw"},
    {FUSE_READDIR, "/hosfqfw"},
    {FUSE_READDIRPLUS, "/hosfqfw"},
    {FUSE_READDIRPLUS, "/hosfqfw"},
    {FUSE_RELEASEDIR, "/hffq"},
    {FUSE_FSYNCDIR, "hfw"},
    {FUSE_ACCESS, "fw"},
    {FUSE_CREATE, "/fwwwN"},
    {FUSE_INTERRUPT, "q"},
    {FUSE_IOCTL, "hfcqswD"},
    {FUSE_FALLOCATE, "hoqfw"},
    {FUSE_RENAME2, "/nfwNN"},
    {FUSE_LSEEK, "hofw"},
    {FUSE_COPY_FILE_RANGE, "honhoqq"},
    {51 /* FUSE_TMPFILE */, "fwwwN"},
    {52 /* FUSE_STATX */, "wwhww"},
    {53 /* FUSE_COPY_FILE_RANGE_64 */, "honhoqq"},
};

struct packet {
    struct fuse_in_header header;
    char body[MOST - sizeof(struct fuse_in_header)];
};

static void append(struct packet *packet, const void *data, size_t size)
{
    memcpy((char *)packet + packet->header.len, data, size);
    packet->header.len += (uint32_t)size;
}

static void append_forgotten(struct packet *packet)
{
    struct fuse_batch_forget_in batch = {.count = (uint32_t)draw(10)};
    append(packet, &batch, sizeof(batch));
    for (size_t at = 0; at < batch.count; at++) {
        struct fuse_forget_one one = {draw_node(), draw(3)};
        append(packet, &one, sizeof(one));
    }
}

static void append_field(struct packet *packet, char field)
{
    static const uint32_t calls[] = {FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR,
                                     FS_IOC_FSSETXATTR, FS_IOC_GETVERSION};
    static const uint32_t sizes[] = {0, 1, 100, 152, 4096, 1 << 16, 1 << 17};
    static const uint32_t flags[] = {0, 0, 0, 1, 2, 3, 4, 0x10, 0x20, O_APPEND, O_TRUNC, O_CREAT};
    char data[600];
    uint64_t quad;
    uint32_t word;
    switch (field) {
    case 'N':
        append(packet, data, draw_name(data));
        return;
    case 'D':
        memset(data, 'd', sizeof(data));
        append(packet, data, draw(sizeof(data)));
        return;
    case 'F':
        append_forgotten(packet);
        return;
    case 'h':
        quad = packet->header.opcode == FUSE_READDIRPLUS && !chance(10) ? packet->header.nodeid
                                                                       : draw_handle();
        append(packet, &quad, sizeof(quad));
        return;
    case 'n':
        quad = chance(2) ? packet->header.nodeid : draw_directory();
        append(packet, &quad, sizeof(quad));
        return;
    case 'o':
        quad = chance(2) ? 0 : draw_number();
        append(packet, &quad, sizeof(quad));
        return;
    case 'k':
        quad = chance(8) ? draw_number() : 1;
        append(packet, &quad, sizeof(quad));
        return;
    case 'q':
        quad = draw_number();
        append(packet, &quad, sizeof(quad));
        return;
    case 's':
        word = chance(8) ? (uint32_t)draw_number() : sizes[draw(sizeof(sizes) / sizeof(sizes[0]))];
        break;
    case 'f':
        word = chance(8) ? (uint32_t)draw_number() : flags[draw(sizeof(flags) / sizeof(flags[0]))];
        break;
    case 'W':
        word = O_RDWR;
        break;
    case 'c':
        word = chance(8) ? (uint32_t)draw_number() : calls[draw(sizeof(calls) / sizeof(calls[0]))];
        break;
    default:
        word = (uint32_t)draw_number();
    }
    append(packet, &word, sizeof(word));
}

/* Make a request of something else. */
static void mutate(struct packet *packet)
{
    size_t body = packet->header.len - sizeof(packet->header);
    switch (draw(5)) {
    case 0:
        packet->header.len -= (uint32_t)draw(body + 1);
        break;
    case 1:
        packet->header.opcode = chance(2) ? (uint32_t)draw(60) : (uint32_t)draw_number();
        break;
    case 2:
        memset(packet->body + body, (int)draw(256), 200);
        packet->header.len += (uint32_t)draw(200);
        break;
    default:
        for (size_t count = body == 0 ? 0 : 1 + draw(4); count > 0; count--)
            packet->body[draw(body)] ^= (char)(1 << draw(8));
    }
}

static void draw_request(struct packet *packet, uint64_t unique)
{
    static const uint32_t ids[] = {0, 0, 1000, (uint32_t)-1};
    size_t which = draw(sizeof(LAYOUTS) / sizeof(LAYOUTS[0]));
    const char *field = LAYOUTS[which].body;
    bool in_directory = *field == '/' && !chance(8);
    packet->header = (struct fuse_in_header){.len = sizeof(packet->header),
                                             .opcode = LAYOUTS[which].opcode,
                                             .unique = unique,
                                             .nodeid = in_directory ? draw_directory() : draw_node(),
                                             .uid = ids[draw(4)],
                                             .gid = ids[draw(4)]};
    for (field += *field == '/'; *field != '\0'; field++)
        append_field(packet, *field);
    if (chance(6))
        mutate(packet);
}

static bool is_answered(uint32_t opcode)
{
    switch (opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
    case FUSE_NOTIFY_REPLY:
        return false;
    default:
        return true;
    }
}

/* Replies */

/* A request that is on its way. */
struct sent {
    uint64_t unique;
    uint32_t opcode;
    uint64_t node;
    size_t size; /* that READ and READDIRPLUS have asked for */
};

static void check_listing(const char *at, size_t size)
{
    uint64_t cookie = 0;
    while (size > 0) {
        const struct fuse_direntplus *entry = (const struct fuse_direntplus *)at;
        CHECK(size >= FUSE_NAME_OFFSET_DIRENTPLUS);
        CHECK(size >= FUSE_DIRENTPLUS_SIZE(entry));
        CHECK(entry->dirent.namelen > 0 && entry->dirent.namelen <= NAME_MAX);
        CHECK(memchr(entry->dirent.name, '/', entry->dirent.namelen) == NULL);
        CHECK(memchr(entry->dirent.name, '\0', entry->dirent.namelen) == NULL);
        CHECK(entry->dirent.ino != 0 || entry->dirent.namelen <= 2);
        CHECK(entry->dirent.off > cookie);
        cookie = entry->dirent.off;
        if (entry->entry_out.nodeid != 0)
            learn_node(entry->entry_out.nodeid, entry->entry_out.attr.mode);
        at += FUSE_DIRENTPLUS_SIZE(entry);
        size -= FUSE_DIRENTPLUS_SIZE(entry);
    }
}

static void check_reply(const struct sent *sent, const struct fuse_out_header *header)
{
    const void *body = header + 1;
    size_t size = header->len - sizeof(*header);
    const struct fuse_entry_out *entry = body;
    CHECK(header->error <= 0 && header->error > -512);
    if (header->error != 0) {
        CHECK(size == 0);
        return;
    }
    switch (sent->opcode) {
    case FUSE_LOOKUP:
        CHECK(size == sizeof(*entry));
        if (entry->nodeid != 0)
            learn_node(entry->nodeid, entry->attr.mode);
        break;
    case FUSE_MKDIR:
    case FUSE_MKNOD:
    case FUSE_SYMLINK:
        CHECK(size == sizeof(*entry) && entry->nodeid != 0);
        learn_node(entry->nodeid, entry->attr.mode);
        break;
    case FUSE_GETATTR:
    case FUSE_SETATTR:
        CHECK(size == sizeof(struct fuse_attr_out));
        break;
    case FUSE_OPEN:
        CHECK(size == sizeof(struct open_reply));
        learn_handle(((const struct open_reply *)body)->fh);
        break;
    case FUSE_CREATE:
        CHECK(size == sizeof(*entry) + sizeof(struct open_reply));
        learn_node(entry->nodeid, entry->attr.mode);
        learn_handle(((const struct open_reply *)(entry + 1))->fh);
        break;
    case FUSE_READDIRPLUS:
        CHECK(size <= sent->size);
        check_listing(body, size);
        break;
    case FUSE_READ:
        CHECK(size <= sent->size);
        break;
    case FUSE_READLINK:
        CHECK(size > 0);
        break;
    default:
        break;
    }
}

/* The kernel's end of the channel, the plane's, Python's, and what is on its way */

static int kernel;
static int plane;
static int ready;
static struct sent batch[BATCH];
static size_t batch_count;

ssize_t __real_read(int fd, void *buffer, size_t size);

/* The plane's read(2). What is behind a request in its buffer is not to be looked at. */
ssize_t __wrap_read(int fd, void *buffer, size_t size)
{
    if (fd != plane)
        return __real_read(fd, buffer, size);
    ASAN_UNPOISON_MEMORY_REGION(buffer, size);
    ssize_t got = __real_read(fd, buffer, size);
    if (got > 0)
        ASAN_POISON_MEMORY_REGION((char *)buffer + got, size - (size_t)got);
    return got;
}

ssize_t __real_splice(int from, off_t *at, int to, off_t *there, size_t size, unsigned flags);

/* The plane's splice(2). To /dev/fuse what is in a pipe is one message, to a socket it would not be. */
ssize_t __wrap_splice(int from, off_t *at, int to, off_t *there, size_t size, unsigned flags)
{
    if (to != plane)
        return __real_splice(from, at, to, there, size, flags);
    char *message = malloc(size);
    size_t got = 0;
    while (got < size) {
        ssize_t part = __real_read(from, message + got, size - got);
        CHECK(part > 0);
        got += (size_t)part;
    }
    CHECK(write(to, message, size) == (ssize_t)size);
    free(message);
    return (ssize_t)size;
}

static void receive(void)
{
    static char bytes[MOST + 4096] __attribute__((aligned(8)));
    ssize_t size = recv(kernel, bytes, sizeof(bytes), 0);
    const struct fuse_out_header *header = (const struct fuse_out_header *)bytes;
    CHECK(size >= (ssize_t)sizeof(*header) && header->len == size);
    if (header->unique == 0)
        return; /* a notification */
    for (size_t at = 0; at < batch_count; at++) {
        if (batch[at].unique == header->unique) {
            check_reply(&batch[at], header);
            batch[at] = batch[--batch_count];
            return;
        }
    }
    CHECK(!"a reply that nobody waits for");
}

static bool serve_python(void)
{
    static char bytes[MOST] __attribute__((aligned(8)));
    ssize_t size = channel_read(-1, bytes, sizeof(bytes), NULL);
    if (size < 0) {
        CHECK(errno == EINTR || errno == ENODEV);
        return errno == EINTR;
    }
    const struct fuse_in_header *header = (const struct fuse_in_header *)bytes;
    CHECK(size >= (ssize_t)sizeof(*header) && header->len == size);
    /* What is too short libfuse doesn't hand to Python. */
    if (header->opcode == FUSE_RELEASE && header->len < sizeof(*header) + sizeof(struct fuse_release_in))
        reply_with(header->unique, EIO, NULL, 0);
    else
        answer_as_python(header);
    return true;
}

static void await_replies(void)
{
    while (batch_count > 0) {
        struct pollfd waiting[2] = {{.fd = kernel, .events = POLLIN}, {.fd = ready, .events = POLLIN}};
        CHECK(poll(waiting, 2, PATIENCE_MS) > 0);
        if (waiting[0].revents)
            receive();
        if (waiting[1].revents)
            CHECK(serve_python());
    }
}

static void send_request(uint64_t unique)
{
    static struct packet packet;
    draw_request(&packet, unique);
    /* The length that is told and the true one, once in a while. */
    bool lies = chance(200);
    size_t size = packet.header.len;
    if (lies)
        packet.header.len += 1 + (uint32_t)draw(100);
    if (packet.header.opcode == FUSE_INIT || packet.header.opcode == FUSE_DESTROY)
        packet.header.opcode = FUSE_STATFS;
    /* No devices, which somebody might open. */
    if (packet.header.opcode == FUSE_MKNOD)
        ((struct fuse_mknod_in *)packet.body)->rdev = 0;
    /* Nothing else is asked of a file that is closed. */
    bool alone = packet.header.opcode == FUSE_RELEASE;
    if (alone)
        await_replies();
    if (alone && size >= sizeof(packet.header) + 8) {
        uint64_t handle;
        memcpy(&handle, packet.body, sizeof(handle));
        for (size_t at = 0; at < handle_count; at++)
            if (handles[at] == handle)
                handles[at] = handles[--handle_count];
    }
    if (!lies && is_answered(packet.header.opcode)) {
        struct sent sent = {unique, packet.header.opcode, packet.header.nodeid, 0};
        if (size >= sizeof(packet.header) + sizeof(struct fuse_read_in))
            sent.size = ((const struct fuse_read_in *)packet.body)->size;
        batch[batch_count++] = sent;
    }
    CHECK(send(kernel, &packet, size, 0) == (ssize_t)size);
    if (alone)
        await_replies();
}

static void play(size_t steps)
{
    static uint64_t unique;
    for (size_t step = 0; step < steps && (dice == NULL || dice_left > 0); step++) {
        for (size_t count = 1 + draw(BATCH); count > 0; count--)
            send_request(unique += 2);
        if (chance(4) && python_file_count < HANDLES / 2)
            speak_as_python(false);
        await_replies();
        if (chance(4) && python_file_count < HANDLES / 2)
            speak_as_python(true);
    }
}

/* libfuse gets FIRST, and the kernel no reply to it. */
static void begin_to_serve(const struct fuse_in_header *first)
{
    struct fuse_in_header got;
    struct pollfd waiting = {.fd = ready, .events = POLLIN};
    CHECK(poll(&waiting, 1, 0) == 0);
    channel_begin();
    CHECK(poll(&waiting, 1, 0) == 1);
    CHECK(channel_read(-1, &got, sizeof(got), NULL) == sizeof(got));
    CHECK(memcmp(&got, first, sizeof(got)) == 0);
    reply_with(first->unique, 0, NULL, 0);
    CHECK(recv(kernel, &(char){0}, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

static void begin(const char *directory, int threads)
{
    int ends[2], room = 8 << 20;
    struct rlimit limit = {64 << 20, 64 << 20};
    struct stat status;
    /* Drawn handles may be any descriptor, and these are nobody's to write to. */
    for (int fd = 0; fd < 3; fd++)
        CHECK(fstat(fd, &status) == 0 && !S_ISREG(status.st_mode));
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    directory_fd = open(directory, O_DIRECTORY | O_CLOEXEC);
    CHECK(directory_fd >= 0);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    for (int end = 0; end < 2; end++)
        CHECK(setsockopt(ends[end], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) == 0);
    for (int layer = 0; layer <= LAYERS; layer++) {
        char name[2] = {(char)('0' + layer), '\0'};
        int root = openat(directory_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        CHECK(root >= 0 && fstat(root, &status) == 0);
        CHECK(layers_set(layer, root, layer == 0, status.st_dev, 0) == 0);
        if (layer == TOLD_LAYER && chance(2)) {
            layers_set_told(layer);
            const struct source contents = {.layer = layer, .path = "."};
            CHECK(layers_open_listing(&contents) < 0 && errno == EREMOTE);
            told_fd = root;
        }
        upper_fd = root;
    }
    layers_set_upper(LAYERS);
    CHECK(mkdirat(directory_fd, "scratch", 0700) == 0 || errno == EEXIST);
    int scratch = openat(directory_fd, "scratch", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(scratch >= 0);
    copyup_configure(scratch, "trusted.overlay.", WRITTEN);
    changes_configure(true);
    layers_know_owners(true);
    handles_configure(false, false, 1 << 20);
    kernel = ends[0];
    plane = ends[1];
    layers_set_space(chance(4) ? -1 : directory_fd);
    channel_configure(chance(4), false);
    CHECK(channel_ready() < 0 && !channel_ended());
    const struct fuse_in_header first = {
        .len = sizeof(first), .opcode = FUSE_INIT, .unique = UINT64_MAX};
    CHECK(channel_start(plane, threads, MOST, &first, sizeof(first) - 1) < 0 && errno == EINVAL);
    ready = channel_start(plane, threads, MOST, &first, sizeof(first));
    CHECK(ready >= 0 && ready == channel_ready() && !channel_ended());
    begin_to_serve(&first);
    learn_node(FUSE_ROOT_ID, S_IFDIR);
}

#ifdef FUZZER

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool begun;
    if (!begun)
        begin(getenv("PLANE_DIRECTORY"), 1);
    begun = true;
    dice = data;
    dice_left = size;
    play(SIZE_MAX);
    return 0;
}

#else

static void end(void)
{
    CHECK(recv(kernel, &(char){0}, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    close(kernel);
    do {
        struct pollfd waiting = {.fd = ready, .events = POLLIN};
        CHECK(poll(&waiting, 1, PATIENCE_MS) > 0);
    } while (serve_python());
    CHECK(channel_ended());
}

int main(int count, char **words)
{
    CHECK(count == 5);
    dice_state = strtoull(words[2], NULL, 10);
    begin(words[1], atoi(words[4]));
    play(strtoul(words[3], NULL, 10));
    end();
    return 0;
}

#endif
