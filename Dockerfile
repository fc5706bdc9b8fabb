# One image for every role: docker build -t holdfast . && docker run holdfast --role api
# Nothing is compiled: Node runs the sources as they are.
FROM node:24.21.0-bookworm-slim AS dependencies
WORKDIR /holdfast
COPY package.json package-lock.json ./
# Without scripts: what they would fetch or link is for an engine of our own, which no container starts.
RUN npm ci --omit=dev --ignore-scripts && npm cache clean --force

FROM node:24.21.0-bookworm-slim
ENV NODE_ENV=production \
    HOLDFAST_HOST=0.0.0.0 \
    HOLDFAST_PORT=8080 \
    HOLDFAST_DATA=/var/lib/holdfast
RUN install --directory --owner=node --group=node --mode=0700 "$HOLDFAST_DATA"
WORKDIR /holdfast
COPY --from=dependencies /holdfast/node_modules ./node_modules
COPY package.json LICENSE ./
COPY domain ./domain
COPY providers ./providers
COPY store ./store
COPY workflows ./workflows
COPY activities ./activities
COPY api ./api
COPY embedded ./embedded
COPY worker ./worker
# The user `node` of the image, by number: a host that refuses root can tell.
USER 1000:1000
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.HOLDFAST_PORT}/livez`).then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "--disable-warning=ExperimentalWarning", "worker/start.ts"]
CMD ["--role", "api"]
