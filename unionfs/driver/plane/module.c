/* The plane's face to Python, and how it gets beneath libfuse. */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include "changes.h"
#include "copyup.h"
#include "names.h"

struct fuse_session;

/*
 * fuse_lowlevel.h's fuse_custom_io, of libfuse 3.17; earlier ones lack the last member, and look
 * at what they know.
 */
struct custom_io {
    ssize_t (*writev)(int fd, struct iovec *parts, int count, void *data);
    ssize_t (*read)(int fd, void *buffer, size_t size, void *data);
    ssize_t (*splice_receive)(int, off_t *, int, off_t *, size_t, unsigned, void *);
    ssize_t (*splice_send)(int, off_t *, int, off_t *, size_t, unsigned, void *);
    int (*clone_fd)(int);
};

static void *pyfuse3; /* the library that it is, with libfuse beneath it */

/* What NAME is in pyfuse3's libfuse. */
static void *libfuse(const char *name)
{
    return pyfuse3 == NULL ? NULL : dlsym(pyfuse3, name);
}

/* Let SESSION read from the plane's queue and write through the plane. Answers 0, or -1. */
static int redirect(struct fuse_session *session)
{
    static const struct custom_io io = {.writev = channel_write, .read = channel_read};
    int (*sized)(struct fuse_session *, const struct custom_io *, size_t, int) =
        libfuse("fuse_session_custom_io_317");
    int (*plain)(struct fuse_session *, const struct custom_io *, int) =
        libfuse("fuse_session_custom_io");
    /* The descriptor becomes libfuse's, to be closed. */
    int ready = fcntl(channel_ready(), F_DUPFD_CLOEXEC, 0);
    if (ready < 0)
        return -1;
    if ((sized != NULL ? sized(session, &io, sizeof(io), ready) : plain(session, &io, ready)) != 0) {
        close(ready);
        return -1;
    }
    channel_begin();
    return 0;
}

/*
 * libfuse's own, wrapped: this module is loaded before pyfuse3 with its symbols global, so that
 * pyfuse3 finds this one first. Where the plane serves the mount, it is mounted already.
 */
__attribute__((visibility("default"))) int fuse_session_mount(struct fuse_session *session,
                                                              const char *point);

int fuse_session_mount(struct fuse_session *session, const char *point)
{
    Dl_info caller;
    if (channel_ready() >= 0)
        return redirect(session);
    if (pyfuse3 == NULL && dladdr(__builtin_return_address(0), &caller) != 0)
        pyfuse3 = dlopen(caller.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    int (*mount)(struct fuse_session *, const char *) = libfuse("fuse_session_mount");
    return mount == NULL ? -1 : mount(session, point);
}

PyDoc_STRVAR(usable_doc, "usable(path) -> bool\n\n"
                         "Whether the session of pyfuse3, a library at PATH, can be redirected.");

static PyObject *usable(PyObject *module, PyObject *argument)
{
    (void)module;
    const char *path = PyUnicode_AsUTF8(argument);
    if (path == NULL)
        return NULL;
    if (pyfuse3 == NULL)
        pyfuse3 = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    bool can = libfuse("fuse_session_custom_io_317") != NULL
               || libfuse("fuse_session_custom_io") != NULL;
    return PyBool_FromLong(can && dlsym(RTLD_DEFAULT, "fuse_session_mount") == fuse_session_mount);
}

PyDoc_STRVAR(start_doc,
             "start(kernel, begin, threads, most, debug, passthrough, lower_from, constant, sync,\n"
             "only)\n\n"
             "Serve KERNEL, a descriptor of /dev/fuse that becomes the plane's. BEGIN is what\n"
             "libfuse reads first: a request of ours, whose reply nobody gets. Requests are at most\n"
             "MOST bytes long. PASSTHROUGH:\n"
             "files of the upper are passed through, and, if nothing in the mount changes (CONSTANT),\n"
             "lower files of at least LOWER_FROM bytes.\n"
             "SYNC: fsync(2) has an effect. ONLY: what others than root and we ask for is libfuse's\n"
             "to refuse. Answers a descriptor, the plane's, that is readable when a request waits for\n"
             "libfuse. Raises OSError.");

static PyObject *start(PyObject *module, PyObject *arguments)
{
    (void)module;
    int kernel, threads, debug, passthrough, constant, sync, only;
    Py_ssize_t most, size;
    const char *begin;
    long long lower_from;
    if (!PyArg_ParseTuple(arguments, "iy#inppLppp", &kernel, &begin, &size, &threads, &most, &debug,
                          &passthrough, &lower_from, &constant, &sync, &only))
        return NULL;
    handles_configure(passthrough, passthrough && constant, lower_from);
    changes_configure(sync);
    channel_configure(only, debug);
    int ready = channel_start(kernel, threads, (size_t)most, begin, (size_t)size);
    if (ready < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(ready);
}

PyDoc_STRVAR(first_doc, "first()\n\n"
                        "What the request may lack that waits for libfuse first, its node and its\n"
                        "name; None if there is none that the plane might be able to answer.");

static PyObject *first(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    struct waiting_request request;
    if (!channel_first(&request))
        Py_RETURN_NONE;
    return Py_BuildValue("iKy", (int)request.lack, (unsigned long long)request.node, request.name);
}

PyDoc_STRVAR(again_doc, "again()\n\nLook at that request once more.");

static PyObject *again(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    channel_again();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(ended_doc, "ended() -> bool\n\nWhether the mount is gone, and so no request comes.");

static PyObject *ended(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    return PyBool_FromLong(channel_ended());
}

PyDoc_STRVAR(offer_doc, "offer(descriptor, upper)\n\n"
                        "DESCRIPTOR, the handle of the reply that comes next, is a file of the\n"
                        "upper or a lower file. Raises OSError.");

static PyObject *offer(PyObject *module, PyObject *arguments)
{
    (void)module;
    int descriptor, upper;
    if (!PyArg_ParseTuple(arguments, "ip", &descriptor, &upper))
        return NULL;
    if (handles_offer(descriptor, upper) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(layer_doc, "layer(position, root, upper, whiteout_files, device, space,\n"
                        "owners_known, told)\n\n"
                        "A layer that the plane may read itself, at descriptor ROOT. UPPER: it is\n"
                        "the upper, which the plane may change as well. WHITEOUT_FILES:\n"
                        "names beginning .wh. are whiteouts. Inodes of DEVICE are numbered by SPACE\n"
                        "in the bits from the 48th on. OWNERS_KNOWN: all have a number here.\n"
                        "TOLD: its names are, by fill, and ROOT has the contents. Raises OSError.");

static PyObject *layer(PyObject *module, PyObject *arguments)
{
    (void)module;
    int position, root, upper, whiteout_files, owners_known, told;
    unsigned long long device, space;
    if (!PyArg_ParseTuple(arguments, "iippKKpp", &position, &root, &upper, &whiteout_files,
                          &device, &space, &owners_known, &told))
        return NULL;
    layers_know_owners(owners_known);
    if (upper)
        layers_set_upper(position);
    if (layers_set(position, root, whiteout_files, device, space) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    if (told)
        layers_set_told(position);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(filesystem_doc, "filesystem(position, uuid)\n\n"
                             "The UUID of the filesystem of a layer that is known, for origins.");

static PyObject *filesystem(PyObject *module, PyObject *arguments)
{
    (void)module;
    int position;
    const char *uuid;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "iy#", &position, &uuid, &length))
        return NULL;
    if (length != LAYERS_UUID)
        return PyErr_Format(PyExc_ValueError, "a UUID has %d bytes", LAYERS_UUID);
    layers_set_uuid(position, (const uint8_t *)uuid);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(space_doc, "space(descriptor)\n\n"
                        "DESCRIPTOR, which stays the caller's, is on the filesystem whose space\n"
                        "statfs(2) tells.");

static PyObject *space(PyObject *module, PyObject *argument)
{
    (void)module;
    long descriptor = PyLong_AsLong(argument);
    if (PyErr_Occurred())
        return NULL;
    layers_set_space((int)descriptor);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(copies_doc, "copies(scratch, prefix, ordering)\n\n"
                         "Copies and whiteouts are made in the directory SCRATCH, a descriptor, with\n"
                         "marks whose names begin with PREFIX. ORDERING: see unionfs.ordering.");

static PyObject *copies(PyObject *module, PyObject *arguments)
{
    (void)module;
    static char kept[32];
    int scratch, ordering;
    const char *prefix;
    if (!PyArg_ParseTuple(arguments, "iyi", &scratch, &prefix, &ordering))
        return NULL;
    if (strlen(prefix) >= sizeof(kept))
        return PyErr_Format(PyExc_ValueError, "the prefix is too long");
    strcpy(kept, prefix);
    copyup_configure(scratch, kept, (enum ordering)ordering);
    Py_RETURN_NONE;
}

/* Turn (name, type, plain, bare, attributes, text) into NAME. Answers whether it is one. */
static bool parse_told_name(PyObject *item, struct told_name *name)
{
    const char *bytes, *attributes, *text;
    Py_ssize_t size, length;
    int plain, bare;
    if (!PyArg_ParseTuple(item, "ybppy#z#", &bytes, &name->type, &plain, &bare, &attributes, &size,
                          &text, &length))
        return false;
    if (size != sizeof(name->attributes)) {
        PyErr_Format(PyExc_ValueError, "attributes have %zu bytes", sizeof(name->attributes));
        return false;
    }
    name->name = strdup(bytes);
    name->text = text == NULL ? NULL : strndup(text, (size_t)length);
    name->plain = plain;
    name->bare = bare;
    memcpy(&name->attributes, attributes, sizeof(name->attributes));
    if (name->name != NULL && (text == NULL || name->text != NULL))
        return true;
    PyErr_NoMemory();
    return false;
}

/* Turn a list of such into names that are told. NULL if it fails. */
static struct told *parse_told(PyObject *list)
{
    Py_ssize_t size = PyList_Size(list);
    struct told *told = size < 0 ? NULL : told_new((size_t)size);
    if (told == NULL)
        return size < 0 ? NULL : (struct told *)PyErr_NoMemory();
    for (Py_ssize_t at = 0; at < size; at++)
        if (!parse_told_name(PyList_GET_ITEM(list, at), &told->names[at])) {
            told_free(told);
            return NULL;
        }
    told_sort(told);
    return told;
}

/* Turn (layer, path, names) into SOURCE; names are None where they are to be read. */
static bool parse_source(PyObject *item, struct source *source)
{
    const char *path;
    PyObject *names;
    if (!PyArg_ParseTuple(item, "iyO", &source->layer, &path, &names))
        return false;
    source->fd = -1;
    if (names != Py_None && (source->told = parse_told(names)) == NULL)
        return false;
    source->path = strdup(path);
    if (source->path == NULL)
        PyErr_NoMemory();
    return source->path != NULL;
}

/* Turn a sequence of such into sources, to be freed with all that they have. NULL if it fails. */
static struct source *parse_sources(PyObject *sequence, size_t *count)
{
    Py_ssize_t size = PySequence_Size(sequence);
    struct source *sources = size < 0 ? NULL : calloc((size_t)size + 1, sizeof(*sources));
    if (sources == NULL)
        return (struct source *)PyErr_NoMemory();
    for (Py_ssize_t at = 0; at < size; at++) {
        PyObject *item = PySequence_GetItem(sequence, at);
        bool good = item != NULL && parse_source(item, &sources[at]);
        Py_XDECREF(item);
        if (!good) {
            tree_free_sources(sources, (size_t)size);
            return NULL;
        }
    }
    *count = (size_t)size;
    return sources;
}

/* What ASK says of a node's number. */
static PyObject *answer_of(bool (*ask)(uint64_t), PyObject *argument)
{
    unsigned long long number = PyLong_AsUnsignedLongLong(argument);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(ask(number));
}

static void append_question(const struct question *question, void *list)
{
    PyObject *item = Py_BuildValue("y#i", question->name, (Py_ssize_t)question->length,
                                   question->layer);
    if (item != NULL)
        PyList_Append(list, item);
    Py_XDECREF(item);
}

PyDoc_STRVAR(fill_doc,
             "fill(number, above, references, sources, upper_fd)\n\n"
             "Let the plane know all names in directory NUMBER, which is in directory ABOVE, to\n"
             "which the kernel has REFERENCES, and which consists of SOURCES: (layer, path, names)\n"
             "each, topmost first. Names that are told are a list of (name, type, plain, bare,\n"
             "attributes, text), see told.h; None if they are to be read. UPPER_FD, which becomes the plane's, is its descriptor in the upper;\n"
             "-1 if it is not there. Answers the names that only Python can tell of, with the\n"
             "position of the topmost layer that has each; None if it is known already.\n"
             "Raises OSError.");

static PyObject *fill(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long number, above, references;
    PyObject *sequence;
    size_t count = 0;
    int upper_fd;
    if (!PyArg_ParseTuple(arguments, "KKKOi", &number, &above, &references, &sequence, &upper_fd))
        return NULL;
    struct source *sources = parse_sources(sequence, &count);
    PyObject *list = sources == NULL ? NULL : PyList_New(0);
    if (list == NULL) {
        if (sources != NULL)
            tree_free_sources(sources, count);
        if (upper_fd >= 0)
            close(upper_fd);
        return NULL;
    }
    int error = names_fill(number, above, references, sources, count, upper_fd, append_question,
                           list);
    if (error == 0 && !PyErr_Occurred())
        return list;
    Py_DECREF(list);
    if (error == EEXIST)
        Py_RETURN_NONE;
    errno = error;
    return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
}

PyDoc_STRVAR(unknown_doc, "unknown(number)\n\n"
                          "The names in a directory whose numbers the plane does not know, as fill\n"
                          "answers them, each once.");

static PyObject *unknown(PyObject *module, PyObject *argument)
{
    (void)module;
    unsigned long long number = PyLong_AsUnsignedLongLong(argument);
    PyObject *list = PyErr_Occurred() ? NULL : PyList_New(0);
    if (list == NULL)
        return NULL;
    names_unknown(number, append_question, list);
    if (!PyErr_Occurred())
        return list;
    Py_DECREF(list);
    return NULL;
}

PyDoc_STRVAR(changes_doc,
             "changes()\n\n"
             "What the plane changed in directories that Python knows, since this was asked before:\n"
             "(number of the directory, name, whether it is there).");

static PyObject *changes(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    PyObject *list = PyList_New(0);
    struct change *change = names_changes();
    while (change != NULL) {
        struct change *next = change->next;
        PyObject *item = list == NULL ? NULL
                                      : Py_BuildValue("Ky#O", (unsigned long long)change->parent,
                                                      change->name, (Py_ssize_t)change->length,
                                                      change->present ? Py_True : Py_False);
        if (item != NULL)
            PyList_Append(list, item);
        Py_XDECREF(item);
        free(change);
        change = next;
    }
    if (!PyErr_Occurred())
        return list;
    Py_XDECREF(list);
    return NULL;
}

PyDoc_STRVAR(put_doc,
             "put(parent, name, number, type, references) -> bool\n\n"
             "Directory PARENT has NAME, which is NUMBER and of TYPE (DT_*). Answers whether the\n"
             "kernel's REFERENCES are counted in the plane from now on.");

static PyObject *put(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long parent, number, references;
    const char *name;
    Py_ssize_t length;
    unsigned char type;
    if (!PyArg_ParseTuple(arguments, "Ky#KbK", &parent, &name, &length, &number, &type, &references))
        return NULL;
    return PyBool_FromLong(names_put(parent, name, (size_t)length, number, type, references));
}

PyDoc_STRVAR(describe_doc, "describe(number, attributes)\n\n"
                           "A directory that does not change has ATTRIBUTES (struct fuse_attr).");

static PyObject *describe(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long number;
    const char *attributes;
    Py_ssize_t size;
    struct fuse_attr copy;
    if (!PyArg_ParseTuple(arguments, "Ky#", &number, &attributes, &size))
        return NULL;
    if (size != sizeof(copy))
        return PyErr_Format(PyExc_ValueError, "attributes have %zu bytes", sizeof(copy));
    memcpy(&copy, attributes, sizeof(copy));
    names_describe(number, &copy);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(trusted_doc, "trusted(number) -> bool\n\n"
                          "Whether the plane may open NUMBER, or it is no file whose name was told.");

static PyObject *trusted(PyObject *module, PyObject *argument)
{
    (void)module;
    return answer_of(nodes_is_trusted, argument);
}

PyDoc_STRVAR(untrusted_doc, "untrusted(number, size, most) -> list\n\n"
                            "Names of files that the plane may not open yet, of at most SIZE bytes:\n"
                            "up to MOST of those that were told after that of NUMBER.");

static PyObject *untrusted(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long number, size;
    char *names[64];
    unsigned most;
    if (!PyArg_ParseTuple(arguments, "KKI", &number, &size, &most))
        return NULL;
    if (most > sizeof(names) / sizeof(names[0]))
        return PyErr_Format(PyExc_ValueError, "more than %zu", sizeof(names) / sizeof(names[0]));
    size_t count = nodes_untrusted(number, size, names, most);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t at = 0; at < count; at++) {
        if (list != NULL)
            PyList_SET_ITEM(list, (Py_ssize_t)at, PyBytes_FromString(names[at]));
        free(names[at]);
    }
    if (PyErr_Occurred())
        Py_CLEAR(list);
    return list;
}

PyDoc_STRVAR(trust_doc, "trust(parent, name, path) -> bool\n\n"
                        "The content of file NAME in PARENT, whose name was told, is right; it is\n"
                        "at PATH below the layer's root. Answers whether the plane may open it\n"
                        "from now on.");

static PyObject *trust(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long parent;
    const char *name, *path;
    if (!PyArg_ParseTuple(arguments, "Kyy", &parent, &name, &path))
        return NULL;
    return PyBool_FromLong(nodes_trust(parent, name, path));
}

PyDoc_STRVAR(remove_doc, "remove(parent, name)\n\nDirectory PARENT has NAME no more.");

static PyObject *remove_name(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long parent;
    const char *name;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "Ky#", &parent, &name, &length))
        return NULL;
    names_remove(parent, name, (size_t)length);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(raised_doc, "raised(number, upper_fd)\n\n"
                         "A directory is in the upper from now on; UPPER_FD, which becomes the\n"
                         "plane's, is its descriptor there.");

static PyObject *raised(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long number;
    int upper_fd;
    if (!PyArg_ParseTuple(arguments, "Ki", &number, &upper_fd))
        return NULL;
    names_raised(number, upper_fd);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(leave_doc, "leave(number)\n\nWhat is asked of names in a directory is Python's to answer.");

static PyObject *leave(PyObject *module, PyObject *argument)
{
    (void)module;
    unsigned long long number = PyLong_AsUnsignedLongLong(argument);
    if (PyErr_Occurred())
        return NULL;
    names_leave(number);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(refer_doc, "refer(number) -> bool\n\n"
                        "Count one more reference of the kernel, if NUMBER is counted here.");

static PyObject *refer(PyObject *module, PyObject *argument)
{
    (void)module;
    return answer_of(names_refer, argument);
}

PyDoc_STRVAR(filled_doc, "filled(number) -> bool\n\nWhether fill was done for a directory.");

static PyObject *filled(PyObject *module, PyObject *argument)
{
    (void)module;
    return answer_of(names_filled, argument);
}

PyDoc_STRVAR(has_names_doc, "has_names(number)\n\n"
                            "Whether there is a name in a directory; None if that is not known.");

static PyObject *has_names(PyObject *module, PyObject *argument)
{
    (void)module;
    unsigned long long number = PyLong_AsUnsignedLongLong(argument);
    if (PyErr_Occurred())
        return NULL;
    int found = names_any(number);
    if (found < 0)
        Py_RETURN_NONE;
    return PyBool_FromLong(found);
}

PyDoc_STRVAR(number_doc, "number(parent, name) -> int\n\n"
                         "The number of a plain node that is known, by its directory and name; or 0.");

static PyObject *number(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long parent;
    const char *name;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "Ky#", &parent, &name, &length))
        return NULL;
    return PyLong_FromUnsignedLongLong(names_number(parent, name, (size_t)length));
}

PyDoc_STRVAR(where_doc,
             "where(number)\n\n"
             "Of a plain node: the number of the directory that it is in, its name, the positions of\n"
             "the layers that have it, and its attributes (struct fuse_attr) as they were when it was\n"
             "found; or None.");

static PyObject *where(PyObject *module, PyObject *argument)
{
    (void)module;
    struct whereabouts found;
    unsigned long long number = PyLong_AsUnsignedLongLong(argument);
    if (PyErr_Occurred())
        return NULL;
    if (!names_where(number, &found))
        Py_RETURN_NONE;
    PyObject *layers = PyTuple_New((Py_ssize_t)found.count);
    for (size_t at = 0; layers != NULL && at < found.count; at++)
        PyTuple_SetItem(layers, (Py_ssize_t)at, PyLong_FromLong(found.layers[at]));
    free(found.layers);
    return Py_BuildValue("Ky#Ny#", (unsigned long long)found.parent, found.name,
                         (Py_ssize_t)found.length, layers, (const char *)&found.attributes,
                         (Py_ssize_t)sizeof(found.attributes));
}

PyDoc_STRVAR(forget_doc, "forget(number, count) -> bool\n\n"
                         "The kernel gives up references that are counted here.");

static PyObject *forget(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long number, count;
    if (!PyArg_ParseTuple(arguments, "KK", &number, &count))
        return NULL;
    return PyBool_FromLong(names_forget(number, count));
}

static void append_descriptor(int fd, bool writable, void *list)
{
    PyObject *item = Py_BuildValue("iO", fd, writable ? Py_True : Py_False);
    if (item != NULL)
        PyList_Append(list, item);
    Py_XDECREF(item);
}

PyDoc_STRVAR(adopt_doc,
             "adopt(number)\n\n"
             "A plain node is Python's from now on. Answers the kernel's references to it, 0 if it\n"
             "is not one; what is open for it: (descriptor, whether it is writable); a descriptor\n"
             "(O_PATH) of what has no name any more, else -1; and the position of its layer.");

static PyObject *adopt(PyObject *module, PyObject *argument)
{
    (void)module;
    int fd, layer;
    unsigned long long number = PyLong_AsUnsignedLongLong(argument);
    if (PyErr_Occurred())
        return NULL;
    PyObject *list = PyList_New(0);
    if (list == NULL)
        return NULL;
    unsigned long long references = names_adopt(number, append_descriptor, list, &fd, &layer);
    return Py_BuildValue("KNii", references, list, fd, layer);
}

static PyMethodDef methods[] = {
    {"usable", usable, METH_O, usable_doc},
    {"start", start, METH_VARARGS, start_doc},
    {"first", first, METH_NOARGS, first_doc},
    {"again", again, METH_NOARGS, again_doc},
    {"ended", ended, METH_NOARGS, ended_doc},
    {"offer", offer, METH_VARARGS, offer_doc},
    {"layer", layer, METH_VARARGS, layer_doc},
    {"filesystem", filesystem, METH_VARARGS, filesystem_doc},
    {"space", space, METH_O, space_doc},
    {"copies", copies, METH_VARARGS, copies_doc},
    {"fill", fill, METH_VARARGS, fill_doc},
    {"describe", describe, METH_VARARGS, describe_doc},
    {"put", put, METH_VARARGS, put_doc},
    {"trusted", trusted, METH_O, trusted_doc},
    {"untrusted", untrusted, METH_VARARGS, untrusted_doc},
    {"trust", trust, METH_VARARGS, trust_doc},
    {"remove", remove_name, METH_VARARGS, remove_doc},
    {"raised", raised, METH_VARARGS, raised_doc},
    {"unknown", unknown, METH_O, unknown_doc},
    {"changes", changes, METH_NOARGS, changes_doc},
    {"leave", leave, METH_O, leave_doc},
    {"refer", refer, METH_O, refer_doc},
    {"filled", filled, METH_O, filled_doc},
    {"has_names", has_names, METH_O, has_names_doc},
    {"number", number, METH_VARARGS, number_doc},
    {"where", where, METH_O, where_doc},
    {"adopt", adopt, METH_O, adopt_doc},
    {"forget", forget, METH_VARARGS, forget_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "unionfs.driver.plane._plane",
    .m_doc = "The data plane: what is answered without Python.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__plane(void)
{
    return PyModule_Create(&definition);
}
