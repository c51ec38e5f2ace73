// A back end that reads a hub's messages as from Event Hubs, and prints them as the
// SDK understands them: by the endpoint's connection string, or by the hub's, from
// which it finds the endpoint as Microsoft's samples do.
// Usage: node eventhub.js tcp|ws CONNECTION-STRING GROUP COUNT [FROM]
// FROM is an event position in JSON, or latest; the earliest unless given.
'use strict';
const crypto = require('crypto');
const { EventHubConsumerClient, earliestEventPosition, latestEventPosition } = require('@azure/event-hubs');
const { Connection, ReceiverEvents, parseConnectionString } = require('rhea-promise');
const WebSocket = require('ws');

const [door, connectionString, group, count, from] = process.argv.slice(2);

// endpoint asks the hub where its events are read.
async function endpoint(text) {
  const { HostName: host, SharedAccessKeyName: policy, SharedAccessKey: key } = parseConnectionString(text);
  const sr = encodeURIComponent(`${host}/messages/events`);
  const se = Math.ceil(Date.now() / 1000 + 300);
  const sig = crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(`${sr}\n${se}`).digest('base64');
  const connection = new Connection({
    transport: 'tls', host, hostname: host, port: 5671, reconnect: false,
    username: `${policy}@sas.root.${host.split('.')[0]}`,
    password: `SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(sig)}&se=${se}&skn=${policy}`,
  });
  await connection.open();
  const receiver = await connection.createReceiver({ source: { address: `amqps://${host}/messages/events/$management` } });
  const error = await new Promise((resolve) => receiver.on(ReceiverEvents.receiverError, (c) => resolve(c.receiver.error)));
  await connection.close();
  console.log(JSON.stringify({ redirect: error.condition, hostname: error.info.hostname, address: error.info.address }));
  const path = error.info.address.match(/:\d+\/(.*)\/\$management/i)[1];
  return `Endpoint=sb://${error.info.hostname}/;EntityPath=${path};SharedAccessKeyName=${policy};SharedAccessKey=${key}`;
}

async function main() {
  const found = connectionString.startsWith('HostName=') ? await endpoint(connectionString) : connectionString;
  const client = new EventHubConsumerClient(group, found, {
    retryOptions: { maxRetries: 0 }, // what is refused is to be seen
    ...(door === 'ws' ? { webSocketOptions: { webSocket: WebSocket } } : {}),
  });
  const hub = await client.getEventHubProperties();
  console.log(JSON.stringify({ name: hub.name, partitions: hub.partitionIds, created: hub.createdOn }));
  console.log(JSON.stringify(await client.getPartitionProperties(hub.partitionIds[0])));
  let left = Number(count);
  const over = new Promise((resolve, reject) => {
    client.subscribe({
      processEvents: async (events) => {
        for (const e of events) {
          console.log(JSON.stringify({
            body: e.body, properties: e.properties, system: e.systemProperties, number: e.sequenceNumber, offset: e.offset,
            enqueued: e.enqueuedTimeUtc, messageId: e.messageId, correlationId: e.correlationId, contentType: e.contentType,
          }));
          if (--left === 0) resolve();
        }
      },
      processError: async (err) => reject(err),
      processInitialize: async () => console.log('reads'),
    }, {
      startPosition: from === 'latest' ? latestEventPosition : from ? JSON.parse(from) : earliestEventPosition,
      trackLastEnqueuedEventProperties: true, maxWaitTimeInSeconds: 1,
    });
  });
  await over;
  await client.close();
}

main().then(() => process.exit(0), (err) => {
  console.log(`${err.name} ${err.code}: ${err.message}`);
  process.exit(1);
});
