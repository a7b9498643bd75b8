/*
 * Does what the rows of the benchmark time, without an interpreter's own cost.
 *
 *   worker PASSES VERB WORD...
 *
 * Does the same PASSES times, or twice at least if it still takes more than a second then. Prints a line for
 * each: seconds by the clock, seconds of processor time of its own and of its children, and how many
 * things it did. What fails ends it, with the error and status 1.
 *
 * LIST is a file with one path a line, relative to ROOT.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 20)
#define DIRECTORIES 100 /* that new files are spread over */
#define LONG 1.0 /* seconds after which two passes are enough */

extern char **environ;

static char buffer[BUFFER];
static char **lines;
static long line_count;

/* The same numbers in every pass (xorshift64). */
#define SEED 88172645463325252u
static uint64_t random_state = SEED;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void fill_buffer(void)
{
	for (size_t at = 0; at < BUFFER; at += sizeof(uint64_t)) {
		uint64_t number = next_random();
		memcpy(buffer + at, &number, sizeof(number));
	}
}

static void read_list(const char *path)
{
	FILE *file = fopen(path, "r");
	char *line = NULL;
	size_t room = 0, known = 0;
	ssize_t length;

	if (!file)
		err(1, "%s", path);
	while ((length = getline(&line, &room, file)) > 0) {
		line[length - 1] = '\0';
		if ((size_t)line_count == known) {
			known = known ? 2 * known : 1024;
			lines = reallocarray(lines, known, sizeof(*lines));
			if (!lines)
				err(1, "%s", path);
		}
		lines[line_count++] = strdup(line);
	}
	free(line);
	fclose(file);
}

static int opened(int at, const char *path, int flags)
{
	int descriptor = openat(at, path, flags | O_CLOEXEC, 0644);

	if (descriptor < 0)
		err(1, "%s", path);
	return descriptor;
}

static void closed(int descriptor, const char *path)
{
	if (close(descriptor))
		err(1, "%s", path);
}

static void written(int descriptor, const char *path, size_t size, off_t offset)
{
	if (pwrite(descriptor, buffer, size, offset) != (ssize_t)size)
		err(1, "%s", path);
}

static off_t size_of(int descriptor, const char *path)
{
	struct stat status;

	if (fstat(descriptor, &status))
		err(1, "%s", path);
	return status.st_size;
}

/* Reading */

static long walk_at(int at, const char *name)
{
	int descriptor = opened(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	DIR *directory = fdopendir(descriptor);
	struct dirent *entry;
	struct stat status;
	long count = 0;

	if (!directory)
		err(1, "%s", name);
	while ((errno = 0, entry = readdir(directory))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (fstatat(descriptor, entry->d_name, &status, AT_SYMLINK_NOFOLLOW))
			err(1, "%s", entry->d_name);
		count++;
		if (S_ISDIR(status.st_mode))
			count += walk_at(descriptor, entry->d_name);
	}
	if (errno)
		err(1, "%s", name);
	closedir(directory);
	return count;
}

/* walk DIR: every name below, with its attributes */
static long walk(char **words)
{
	return walk_at(AT_FDCWD, words[0]);
}

/* stat ROOT LIST */
static long stat_all(char **words)
{
	struct stat status;

	(void)words;
	for (long i = 0; i < line_count; i++)
		if (lstat(lines[i], &status))
			err(1, "%s", lines[i]);
	return line_count;
}

/* absent ROOT LIST: looks for names that are not there */
static long absent(char **words)
{
	struct stat status;

	(void)words;
	for (long i = 0; i < line_count; i++)
		if (!stat(lines[i], &status) || errno != ENOENT)
			errx(1, "%s: is not absent", lines[i]);
	return line_count;
}

static void read_file(const char *path, size_t block)
{
	int descriptor = opened(AT_FDCWD, path, O_RDONLY);
	ssize_t got;

	while ((got = read(descriptor, buffer, block)) > 0)
		;
	if (got < 0)
		err(1, "%s", path);
	closed(descriptor, path);
}

/* read ROOT LIST: opens, reads and closes each */
static long read_all(char **words)
{
	(void)words;
	for (long i = 0; i < line_count; i++)
		read_file(lines[i], BUFFER);
	return line_count;
}

/* together ROOT LIST PROCESSES: reads them in so many processes, each a part */
static long together(char **words)
{
	int processes = atoi(words[2]), status;

	for (int number = 0; number < processes; number++) {
		pid_t child = fork();

		if (child < 0)
			err(1, "fork");
		if (!child) {
			for (long i = number; i < line_count; i += processes)
				read_file(lines[i], BUFFER);
			_exit(0);
		}
	}
	for (int number = 0; number < processes; number++)
		if (wait(&status) < 0 || status)
			errx(1, "a process that reads failed");
	return line_count;
}

/* sequential FILE BLOCK */
static long sequential(char **words)
{
	read_file(words[0], (size_t)atol(words[1]));
	return 1;
}

/* random FILE COUNT: reads 4 KiB at random places */
static long random_reads(char **words)
{
	int descriptor = opened(AT_FDCWD, words[0], O_RDONLY);
	uint64_t pages = (uint64_t)size_of(descriptor, words[0]) / 4096;
	long count = atol(words[1]);

	for (long i = 0; i < count; i++)
		if (pread(descriptor, buffer, 4096, (off_t)(next_random() % pages * 4096)) != 4096)
			err(1, "%s", words[0]);
	closed(descriptor, words[0]);
	return count;
}

/* map FILE: touches each page of a map of it */
static long map(char **words)
{
	int descriptor = opened(AT_FDCWD, words[0], O_RDONLY);
	size_t size = (size_t)size_of(descriptor, words[0]);
	volatile const char *bytes = mmap(NULL, size, PROT_READ, MAP_SHARED, descriptor, 0);

	if (bytes == MAP_FAILED)
		err(1, "%s", words[0]);
	for (size_t at = 0; at < size; at += 4096)
		(void)bytes[at];
	munmap((void *)bytes, size);
	closed(descriptor, words[0]);
	return (long)(size / 4096);
}

/* Writing */

/* create DIR COUNT SIZE: makes DIR, and files in directories in it */
static long create(char **words)
{
	long count = atol(words[1]);
	size_t size = (size_t)atol(words[2]);
	char path[64];
	int directory;

	if (mkdir(words[0], 0755))
		err(1, "%s", words[0]);
	directory = opened(AT_FDCWD, words[0], O_RDONLY | O_DIRECTORY);
	for (long i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "d%02ld", i % DIRECTORIES);
		if (i < DIRECTORIES && mkdirat(directory, path, 0755))
			err(1, "%s", path);
		snprintf(path, sizeof(path), "d%02ld/file%ld", i % DIRECTORIES, i);
		int descriptor = opened(directory, path, O_WRONLY | O_CREAT | O_EXCL);
		written(descriptor, path, size, 0);
		closed(descriptor, path);
	}
	closed(directory, words[0]);
	return count;
}

/* fill DIR COUNT: makes empty files in it */
static long fill(char **words)
{
	int directory = opened(AT_FDCWD, words[0], O_RDONLY | O_DIRECTORY);
	long count = atol(words[1]);
	char name[32];

	for (long i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "new%ld", i);
		closed(opened(directory, name, O_WRONLY | O_CREAT | O_EXCL), name);
	}
	closed(directory, words[0]);
	return count;
}

static long remove_at(int at, const char *name)
{
	int descriptor = opened(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	DIR *directory = fdopendir(descriptor);
	struct dirent *entry;
	long count = 1;

	if (!directory)
		err(1, "%s", name);
	while ((errno = 0, entry = readdir(directory))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (entry->d_type == DT_DIR) {
			count += remove_at(descriptor, entry->d_name);
		} else {
			if (unlinkat(descriptor, entry->d_name, 0))
				err(1, "%s", entry->d_name);
			count++;
		}
	}
	if (errno)
		err(1, "%s", name);
	closedir(directory);
	if (unlinkat(at, name, AT_REMOVEDIR))
		err(1, "%s", name);
	return count;
}

/* remove DIR, with all that is in it */
static long remove_all(char **words)
{
	return remove_at(AT_FDCWD, words[0]);
}

/* write FILE BYTES BLOCK WHEN: one block after the other; WHEN to sync: never, end */
static long write_file(char **words)
{
	off_t bytes = atoll(words[1]), block = atoll(words[2]);
	int descriptor = opened(AT_FDCWD, words[0], O_WRONLY | O_CREAT);

	for (off_t at = 0; at < bytes; at += block)
		written(descriptor, words[0], (size_t)block, at);
	if (!strcmp(words[3], "end") && fsync(descriptor))
		err(1, "%s", words[0]);
	closed(descriptor, words[0]);
	return 1;
}

/* scatter FILE COUNT WHEN: 4 KiB at random places; WHEN to sync: never, end, each */
static long scatter(char **words)
{
	int descriptor = opened(AT_FDCWD, words[0], O_WRONLY);
	uint64_t pages = (uint64_t)size_of(descriptor, words[0]) / 4096;
	long count = atol(words[1]);

	for (long i = 0; i < count; i++) {
		written(descriptor, words[0], 4096, (off_t)(next_random() % pages * 4096));
		if (!strcmp(words[2], "each") && fsync(descriptor))
			err(1, "%s", words[0]);
	}
	if (!strcmp(words[2], "end") && fsync(descriptor))
		err(1, "%s", words[0]);
	closed(descriptor, words[0]);
	return count;
}

/* append FILE COUNT SIZE */
static long append(char **words)
{
	int descriptor = opened(AT_FDCWD, words[0], O_WRONLY | O_CREAT | O_APPEND);
	long count = atol(words[1]);
	size_t size = (size_t)atol(words[2]);

	for (long i = 0; i < count; i++)
		if (write(descriptor, buffer, size) != (ssize_t)size)
			err(1, "%s", words[0]);
	closed(descriptor, words[0]);
	return count;
}

/* poke FILE: writes its first byte */
static long poke(char **words)
{
	int descriptor = opened(AT_FDCWD, words[0], O_WRONLY);

	written(descriptor, words[0], 1, 0);
	closed(descriptor, words[0]);
	return 1;
}

/* overwrite FILE: writes it anew, from its first to its last byte */
static long overwrite(char **words)
{
	int descriptor = opened(AT_FDCWD, words[0], O_WRONLY);
	off_t size = size_of(descriptor, words[0]);

	for (off_t at = 0; at < size; at += BUFFER)
		written(descriptor, words[0], (size_t)(size - at < BUFFER ? size - at : BUFFER), at);
	closed(descriptor, words[0]);
	return 1;
}

/* chmod ROOT LIST */
static long chmod_all(char **words)
{
	(void)words;
	for (long i = 0; i < line_count; i++)
		if (chmod(lines[i], 0600))
			err(1, "%s", lines[i]);
	return line_count;
}

/* rename ROOT LIST: gives each a new name beside its old one */
static long rename_all(char **words)
{
	char target[4096];

	(void)words;
	for (long i = 0; i < line_count; i++) {
		snprintf(target, sizeof(target), "%s.renamed", lines[i]);
		if (rename(lines[i], target))
			err(1, "%s", lines[i]);
	}
	return line_count;
}

/* unlink ROOT LIST */
static long unlink_all(char **words)
{
	(void)words;
	for (long i = 0; i < line_count; i++)
		if (unlink(lines[i]))
			err(1, "%s", lines[i]);
	return line_count;
}

/* run DIR COMMAND...: what it prints goes nowhere, but for errors */
static long run(char **words)
{
	posix_spawn_file_actions_t actions;
	pid_t child;
	int status;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	/* grep and tar know /dev/null, and would do less. */
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/zero", O_WRONLY, 0);
	posix_spawn_file_actions_addchdir_np(&actions, words[0]);
	errno = posix_spawnp(&child, words[1], &actions, NULL, words + 1, environ);
	if (errno)
		err(1, "%s", words[1]);
	if (waitpid(child, &status, 0) < 0 || status)
		errx(1, "%s: status %d", words[1], WIFEXITED(status) ? WEXITSTATUS(status) : status);
	posix_spawn_file_actions_destroy(&actions);
	return 1;
}

static const struct verb {
	const char *name;
	int words;
	int has_list; /* its first words are ROOT and LIST */
	long (*act)(char **words);
} verbs[] = {
	{"walk", 1, 0, walk},
	{"stat", 2, 1, stat_all},
	{"absent", 2, 1, absent},
	{"read", 2, 1, read_all},
	{"together", 3, 1, together},
	{"sequential", 2, 0, sequential},
	{"random", 2, 0, random_reads},
	{"map", 1, 0, map},
	{"create", 3, 0, create},
	{"fill", 2, 0, fill},
	{"remove", 1, 0, remove_all},
	{"write", 4, 0, write_file},
	{"scatter", 3, 0, scatter},
	{"append", 3, 0, append},
	{"poke", 1, 0, poke},
	{"overwrite", 1, 0, overwrite},
	{"chmod", 2, 1, chmod_all},
	{"rename", 2, 1, rename_all},
	{"unlink", 2, 1, unlink_all},
	{"run", 2, 0, run},
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double processor(void)
{
	double seconds = 0;

	for (int who = RUSAGE_CHILDREN; who <= RUSAGE_SELF; who++) {
		struct rusage usage;

		getrusage(who, &usage);
		seconds += (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec);
		seconds += (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
	}
	return seconds;
}

int main(int argc, char **argv)
{
	const struct verb *verb = NULL;
	char **words = argv + 3;

	for (size_t i = 0; argc > 3 && i < sizeof(verbs) / sizeof(*verbs); i++)
		if (!strcmp(verbs[i].name, argv[2]))
			verb = &verbs[i];
	if (!verb || argc - 3 < verb->words)
		errx(2, "usage: worker PASSES VERB WORD...");
	fill_buffer();
	if (verb->has_list) {
		read_list(words[1]);
		if (chdir(words[0]))
			err(1, "%s", words[0]);
	}
	int passes = atoi(argv[1]);
	double again = 0; /* what all but the first took */

	for (int pass = 0; pass < passes && (pass < 2 || again < LONG); pass++) {
		double used, begin, taken;
		long count;

		random_state = SEED;
		used = processor();
		begin = now();
		count = verb->act(words);
		taken = now() - begin;
		if (pass > 0)
			again += taken;
		printf("%.9f %.6f %ld\n", taken, processor() - used, count);
	}
	return 0;
}
