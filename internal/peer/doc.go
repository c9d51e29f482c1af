// Package peer compares smelt with llama.cpp; its tests need the build tag peer.
package peer
