module github.com/smeltgguf/smelt

go 1.26
