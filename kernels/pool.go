package kernels

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Pool is a fixed set of goroutines that share the items of one loop at a
// time. A nil *Pool runs everything in the caller.
type Pool struct {
	mu      sync.Mutex // one Run at a time
	threads int

	work    func(worker, item int)
	items   int64
	next    atomic.Int64 // first item that nobody has taken
	pending atomic.Int64 // workers that have not finished this run
	epoch   atomic.Uint64
	closed  atomic.Bool

	fault atomic.Pointer[runtime.Error] // a memory fault of one of the workers

	asleep  []atomic.Bool // per worker: blocked on wake
	wake    []chan struct{}
	waiting atomic.Bool // the caller is blocked on done
	done    chan struct{}
}

// spins is how often a goroutine looks for work before it blocks. Waking a
// blocked one takes longer than a small matrix-vector product.
const spins = 2000

// NewPool starts a pool that runs loops on the given number of goroutines, the
// caller of Run among them; below 1 it takes GOMAXPROCS. Close it after use.
func NewPool(threads int) *Pool {
	if threads < 1 {
		threads = runtime.GOMAXPROCS(0)
	}
	p := &Pool{
		threads: threads,
		asleep:  make([]atomic.Bool, threads),
		wake:    make([]chan struct{}, threads),
		done:    make(chan struct{}, 1),
	}
	for w := 1; w < threads; w++ {
		p.wake[w] = make(chan struct{}, 1)
		go p.worker(w)
	}
	return p
}

// Threads returns the number of goroutines that share a loop.
func (p *Pool) Threads() int {
	if p == nil {
		return 1
	}
	return p.threads
}

// Close ends the goroutines. The pool must be idle.
func (p *Pool) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Swap(true) {
		return
	}
	p.start()
}

// Run calls work(worker, item) once for each item in 0..items-1, on all
// goroutines, and returns when all are done. Items are handed out in order;
// worker is the number of the goroutine, 0..Threads()-1, for scratch memory.
// Run does not allocate if work does not: pass a stored func rather than a
// fresh closure. It must not be called from work.
//
// Work may read mapped files. Where a file no longer backs the memory, the
// fault is a panic of Run's, whichever goroutine met it, so that the caller can
// recover (debug.SetPanicOnFault for its own share). Any other panic of work is
// a mistake in the program and ends it.
func (p *Pool) Run(items int, work func(worker, item int)) {
	if p == nil || p.threads == 1 || items <= 1 {
		for i := range items {
			work(0, i)
		}
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.work, p.items = work, int64(items)
	p.next.Store(0)
	p.start()
	p.loop(0)
	p.wait()
	if f := p.fault.Swap(nil); f != nil {
		panic(*f)
	}
}

// wait returns when the other workers are done.
func (p *Pool) wait() {
	for range spins {
		if p.pending.Load() == 0 {
			return
		}
		runtime.Gosched()
	}
	// The last worker of the run before may be late to look at waiting and take
	// this wait for its own: what counts is pending, the signal only ends the
	// sleep. Every worker that clears waiting sends one signal.
	for {
		p.waiting.Store(true)
		if p.pending.Load() == 0 && p.waiting.CompareAndSwap(true, false) {
			return
		}
		<-p.done
		if p.pending.Load() == 0 {
			return
		}
	}
}

// start lets the workers see a new epoch.
func (p *Pool) start() {
	p.pending.Store(int64(p.threads - 1))
	p.epoch.Add(1)
	for w := 1; w < p.threads; w++ {
		if p.asleep[w].CompareAndSwap(true, false) {
			p.wake[w] <- struct{}{}
		}
	}
}

func (p *Pool) loop(w int) {
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		fault, ok := r.(interface {
			runtime.Error
			Addr() uintptr
		})
		if !ok {
			panic(r)
		}
		err := runtime.Error(fault)
		p.fault.CompareAndSwap(nil, &err)
		p.next.Store(p.items) // nothing more to do
	}()
	for {
		i := p.next.Add(1) - 1
		if i >= p.items {
			return
		}
		p.work(w, int(i))
	}
}

func (p *Pool) worker(w int) {
	debug.SetPanicOnFault(true) // see Run
	for seen := uint64(0); ; seen++ {
		p.await(w, seen)
		if p.closed.Load() {
			return
		}
		p.loop(w)
		if p.pending.Add(-1) == 0 && p.waiting.CompareAndSwap(true, false) {
			p.done <- struct{}{}
		}
	}
}

// await returns once the epoch has moved past seen.
func (p *Pool) await(w int, seen uint64) {
	for range spins {
		if p.epoch.Load() != seen {
			return
		}
		runtime.Gosched()
	}
	for p.epoch.Load() == seen {
		p.asleep[w].Store(true)
		if p.epoch.Load() != seen && p.asleep[w].CompareAndSwap(true, false) {
			return
		}
		<-p.wake[w]
	}
}
