/* Threads that go through one task together and wait for each other between its parts.

   They share out work whose result does not depend on who does it, so any number of them gives the same bits. Who waits
   spins for some microseconds and then sleeps: on a machine with other work, threads that only spin stop everything. */
#ifndef KWEEK_TEAM_H
#define KWEEK_TEAM_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define SPINS 400 /* about 20 microseconds: longer than a part of a step, shorter than a turn of the scheduler */

typedef struct kw_team kw_team;
typedef void (*kw_task)(kw_team *team, int who, void *context);

typedef struct {
    kw_team *team;
    int who;
    pthread_t thread;
} kw_member;

struct kw_team {
    int size;    /* the caller's thread included */
    pid_t owner; /* the process that the threads are in: a fork of it has none of them */
    atomic_uint started, passed; /* these only count; they come round after some weeks */
    atomic_int arrived, sleeping, ending;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    kw_task task;
    void *context;
    kw_member others[]; /* size - 1 */
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_for_change(kw_team *team, atomic_uint *number, unsigned seen) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(number) != seen) return;
        relax();
    }
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add(&team->sleeping, 1);
    while (atomic_load(number) == seen) pthread_cond_wait(&team->wake, &team->lock);
    atomic_fetch_sub(&team->sleeping, 1);
    pthread_mutex_unlock(&team->lock);
}

static void change(kw_team *team, atomic_uint *number) {
    atomic_fetch_add(number, 1);
    if (!atomic_load(&team->sleeping)) return;
    pthread_mutex_lock(&team->lock);
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->lock);
}

/* Nobody goes on before all are here. */
static void meet(kw_team *team) {
    if (team->size == 1) return;
    unsigned seen = atomic_load(&team->passed);
    if (atomic_fetch_add(&team->arrived, 1) + 1 < team->size) {
        wait_for_change(team, &team->passed, seen);
        return;
    }
    atomic_store(&team->arrived, 0);
    change(team, &team->passed);
}

static void *serve(void *own) {
    kw_member *me = own;
    for (unsigned seen = 0;; seen++) {
        wait_for_change(me->team, &me->team->started, seen);
        if (atomic_load(&me->team->ending)) return NULL;
        me->team->task(me->team, me->who, me->team->context);
        meet(me->team);
    }
}

/* All threads of the team do the task; returns when all have. */
static void together(kw_team *team, kw_task task, void *context) {
    team->task = task, team->context = context;
    if (team->size > 1) change(team, &team->started);
    task(team, 0, context);
    meet(team);
}

static int is_here(const kw_team *team) { return team->owner == getpid(); }

static void team_free(kw_team *team) {
    if (!team) return;
    if (!is_here(team)) { /* nobody to wake or to wait for, and the lock is whatever it was */
        free(team);
        return;
    }
    atomic_store(&team->ending, 1);
    change(team, &team->started);
    for (int i = 0; i < team->size - 1; i++) pthread_join(team->others[i].thread, NULL);
    pthread_mutex_destroy(&team->lock);
    pthread_cond_destroy(&team->wake);
    free(team);
}

/* NULL where memory or threads are short. */
static kw_team *team_new(int size) {
    kw_team *team = calloc(1, sizeof *team + (size_t)size * sizeof(kw_member));
    if (!team) return NULL;
    team->owner = getpid();
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->wake, NULL);
    for (team->size = 1; team->size < size; team->size++) {
        kw_member *one = team->others + team->size - 1;
        one->team = team, one->who = team->size;
        if (pthread_create(&one->thread, NULL, serve, one)) {
            team_free(team);
            return NULL;
        }
    }
    return team;
}

/* The part of `count` things, in units, that falls to one of `size`. */
static void share(int count, int unit, int who, int size, int *first, int *last) {
    int units = (count + unit - 1) / unit;
    *first = (int)((int64_t)units * who / size) * unit;
    *last = (int)((int64_t)units * (who + 1) / size) * unit;
    if (*last > count) *last = count;
}
#endif
