/** What is to happen, by time; of two at the same moment the one that was put down first. A binary heap. */
export interface Entry {
  readonly at: number
  readonly place: number
  readonly run: () => void
}

export interface Agenda {
  readonly size: number
  put(at: number, run: () => void): void
  /** Takes the next one off. */
  next(): Entry | undefined
}

const before = (a: Entry, b: Entry): boolean => a.at < b.at || (a.at === b.at && a.place < b.place)

export function newAgenda(): Agenda {
  const heap: Entry[] = []
  let placed = 0
  return {
    get size() {
      return heap.length
    },
    put(at, run) {
      const entry = { at, place: placed++, run }
      let hole = heap.length
      heap.push(entry)
      while (hole > 0) {
        const parent = (hole - 1) >> 1
        if (before(heap[parent]!, entry)) break
        heap[hole] = heap[parent]!
        hole = parent
      }
      heap[hole] = entry
    },
    next() {
      const first = heap[0]
      const last = heap.pop()
      if (!first || heap.length === 0) return first
      let hole = 0
      for (;;) {
        let child = 2 * hole + 1
        if (child >= heap.length) break
        if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
        if (before(last!, heap[child]!)) break
        heap[hole] = heap[child]!
        hole = child
      }
      heap[hole] = last!
      return first
    },
  }
}
